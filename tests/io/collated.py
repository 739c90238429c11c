"""Decomposed OpenFOAM cases put into the collated format."""

import gzip
import re
import shutil

BANNER = b"/*---- a banner ----*/\n"
RULE = b"// " + b"* " * 37 + b"//\n"
END = b"\n\n// " + b"*" * 73 + b" //\n"
_HEAD = re.compile(rb".*?FoamFile\s*\{(.*?)\}\n// [*][* ]*//\n\n?", re.S)


def joined(files, location, banner=BANNER, solver=True, newer=False):
    """One file of class decomposedBlockData of what each processor wrote.

    Arguments:
        files: the bytes of every processor's file.
        location: what the header says of the place.
        banner: what stands before the headers.
        solver: as a solver writes it; False: as decomposePar.
        newer: as OpenFOAM.com writes it from v2012 on, by its source.

    Of 3 processors of a cavity, binary and ASCII, mesh and fields, what this makes of the
    uncollated files was compared with the files of OpenFOAM v1912: byte for byte the same.
    """
    first = _HEAD.match(files[0])
    entries = dict(re.findall(rb"^\s*(\w+)\s+(.*?);", first[1], re.M))
    name = entries[b"object"]
    bodies = [file[_HEAD.match(file).end() :].removesuffix(END) for file in files[1:]]
    out = banner + b"FoamFile\n{\n    version     2.0;\n    format      binary;\n"
    if newer:
        own = b"FoamFile\n{" + first[1] + b"}\n" + RULE + b"\n" + files[0][first.end() :]
        out += b'    arch        "LSB;label=32;scalar=64";\n    class       decomposedBlockData;\n'
        out += b'    location    "' + location.encode() + b'";\n    object      ' + name + b";\n"
        out += b"    data.format " + entries[b"format"] + b";\n"
        out += b"    data.class  " + entries[b"class"] + b";\n"
        out += b"    meta\n    {\n        names       (a b);\n    }\n}\n" + RULE + b"\n"
        for k, body in enumerate([own, *bodies]):
            out += b"\n// processor%d\n%d\n(" % (k, len(body)) + body + b")\n"
        return out
    out += b"    class       decomposedBlockData;\n"
    out += b"    blocks      %d;\n" % len(files) if solver else b""
    out += b'    location    "' + location.encode() + b'";\n    object      ' + name + b";\n}\n"
    out += RULE + b"\n"
    blocks = [
        b"\n// Processor%d\n\n%d\n(" % (k, len(body)) + body + b")"
        for k, body in enumerate([files[0], *bodies])
    ]
    return out + b"\n".join(blocks) + (b"" if solver else b"\n")


def collate(case, groups=(), times=True, mesh=True, packed=False, **how):
    """Put processor0, processor1, … of a case into processorsN, or processorsN_a-b for `groups`.

    Arguments:
        groups: (first, last) of each folder; with them the mesh stays in processorsN.
        times, mesh: what to move; the rest stays.
        packed: compress the files.
    """
    n = len(list(case.glob("processor[0-9]*")))
    parts = [case / f"processor{k}" for k in range(n)]
    for file in sorted(p for p in parts[0].rglob("*") if p.is_file()):
        inside = file.relative_to(parts[0])
        still = inside.parts[0] == "constant"
        if not (mesh if still else times):
            continue
        split = [(0, n - 1)] if still or not groups else groups
        for a, b in split:
            name = f"processors{n}" if still or not groups else f"processors{n}_{a}-{b}"
            data = joined([(parts[k] / inside).read_bytes() for k in range(a, b + 1)],
                          f"{name}/{inside}", **how)  # fmt: skip
            to = case / name / inside
            to.parent.mkdir(parents=True, exist_ok=True)
            if packed:
                to = to.with_name(to.name + ".gz")
                data = gzip.compress(data)
            to.write_bytes(data)
        for part in parts:
            (part / inside).unlink()
    for part in parts:
        for folder in list(part.iterdir()):
            if not any(p.is_file() for p in folder.rglob("*")):
                shutil.rmtree(folder)
        if not any(part.iterdir()):
            part.rmdir()
