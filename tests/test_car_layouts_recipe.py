"""datasets/ahmedml, datasets/drivaerml: folders as published, made small, end up whole in a store.

The surfaces are boxes whose pressure is linear in x and whose wall shear stress is constant, so
that drag and lift are known: F = −∫ p n dA + τ A, of p = a + b x the first is −b V e_x.
"""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import meshsim
from meshsim.cli import main
from meshsim.data import find_sources, preprocess, read_preprocess_config
from meshsim.physics.designs import coefficients
from meshsim.physics.forces import body_forces

DATASETS = Path(__file__).resolve().parents[1] / "datasets"
SMALL = [
    *("train.steps=2", "train.threads=1", "train.checkpoint_every=1", "model.width=16"),
    *("model.heads=2", "model.supernodes=16", "surrogate.points=64"),
    "surrogate.branches.surface.anchors=32",
]
SEAMS = np.array([[1, 2, 0], [2, 0, 1], [0, 1, 2]])


@dataclass(frozen=True)
class Layout:
    """Names and reference values of a published data set."""

    name: str
    stl: str
    surface: dict[str, str]
    volume: dict[str, str]
    speed: float
    area: float


AHMED = Layout(
    "ahmedml",
    "ahmed",
    {"p": "pMean", "cp": "static(p)_coeffMean", "tau": "wallShearStressMean"},
    {"p": "pMean", "cp": "static(p)_coeffMean", "u": "UMean"},
    1.0,
    0.112,
)
DRIVAER = Layout(
    "drivaerml",
    "drivaer",
    {"p": "pMeanTrim", "cp": "CpMeanTrim", "tau": "wallShearStressMeanTrim"},
    {"p": "pMeanTrim", "cp": "CpMeanTrim", "u": "UMeanTrim"},
    38.889,
    2.17,
)
CARS = [
    "Vehicle_Length", "Vehicle_Width", "Vehicle_Height", "Front_Overhang", "Front_Planview",
    "Hood_Angle", "Approach_Angle", "Windscreen_Angle", "Greenhouse_Tapering", "Backlight_Angle",
    "Decklid_Height", "Rearend_tapering", "Rear_Overhang", "Rear_Diffusor_Angle",
    "Vehicle_Ride_Height", "Vehicle_Pitch",
]  # fmt: skip


def box(low: np.ndarray, high: np.ndarray, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Points and quads of a box, normals into it as OpenFOAM's patches have them, seams double."""
    points, quads = [], []
    grid = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    cell = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], -1)
    s, t = np.meshgrid(*[np.linspace(0, 1, n + 1)] * 2, indexing="ij")
    for a, b, c in SEAMS:
        for side in (0.0, 1.0):
            x = np.zeros((*s.shape, 3))
            x[..., a], x[..., b], x[..., c] = s, t, side  # s × t looks along +c
            quads.append(cell.reshape(-1, 4)[:, :: (1 if side == 0 else -1)] + len(points) * s.size)
            points.append((low + x * (high - low)).reshape(-1, 3))
    return np.concatenate(points), np.concatenate(quads)


def array(name: str, values: np.ndarray) -> str:
    """One array as OpenFOAM writes it: on a line, base64, the number of bytes in front."""
    kind = "Float32" if values.dtype.kind == "f" else "Int64"
    raw = values.astype(kind.lower()).tobytes()
    parts = f" NumberOfComponents='{values.shape[1]}'" if values.ndim == 2 else ""
    text = base64.b64encode(np.uint64(len(raw)).tobytes() + raw).decode()
    return f"<DataArray type='{kind}' Name='{name}'{parts} format='binary'>\n{text}\n</DataArray>\n"


def write_vtp(path: Path, points: np.ndarray, quads: np.ndarray, fields: dict) -> None:
    """A surface as OpenFOAM samples it: polygons, values in the cells alone."""
    ends = 4 * np.arange(1, len(quads) + 1)
    path.write_text(
        "<?xml version='1.0'?>\n<!-- patch='ahmed' time='80' index='0' -->\n"
        "<VTKFile type='PolyData' version='0.1' byte_order='LittleEndian' header_type='UInt64'>\n"
        f"<PolyData>\n<Piece NumberOfPoints='{len(points)}' NumberOfPolys='{len(quads)}'>\n"
        f"<Points>\n{array('Points', points)}</Points>\n<Polys>\n"
        f"{array('connectivity', quads.reshape(-1))}{array('offsets', ends)}</Polys>\n<CellData>\n"
        + "".join(array(name, values) for name, values in fields.items())
        + "</CellData>\n</Piece>\n</PolyData>\n</VTKFile>\n"
    )


def write_volume(path: Path, names: dict[str, str], speed: float) -> meshsim.Mesh:
    """Hexahedra behind a body, every array in the cells and at the points."""
    x, y, z = np.meshgrid(np.linspace(1.2, 3, 7), np.linspace(-1, 1, 6), np.linspace(0, 1, 5))
    points = np.stack([x, y, z], -1).reshape(-1, 3)
    at = np.arange(len(points)).reshape(x.shape)
    low, high = (slice(None, -1), slice(1, None))
    ring = [(low, low), (low, high), (high, high), (high, low)]
    nodes = np.stack([at[i, j, k] for k in (low, high) for i, j in ring], -1).reshape(-1, 8)
    made = meshsim.Mesh(points, {"hexahedron": nodes})

    def at_places(x: torch.Tensor) -> dict[str, torch.Tensor]:
        u = speed * torch.stack([torch.tanh(x[:, 2]), 0.1 * x[:, 1], 0 * x[:, 0]], 1)
        p = 0.5 * (speed**2 - u.square().sum(1))
        fields = {"p": p, "cp": p / (0.5 * speed**2), "u": u}
        return {names[key]: values.float() for key, values in fields.items()}

    made = made.replace(
        point_fields=at_places(made.points), cell_fields=at_places(made.cell_centres)
    )
    meshsim.write(made, path)
    return made


def write_row(path: Path, header: str, *values: float | str) -> None:
    """As published: a blank after each comma here and there."""
    path.write_text(f"{header}\n" + ", ".join(str(v) for v in values) + "\n")


def write_run(root: Path, layout: Layout, number: int, volume: bool = True) -> dict:
    """One folder; returns what should be found in the store."""
    run = root / f"run_{number}"
    run.mkdir(parents=True)
    length, width, height = 1.0 + 0.02 * number, 0.39, 0.29 + 0.01 * number
    low = np.array([-length, -width / 2, 0.05])
    points, quads = box(low, np.array([0.0, width / 2, 0.05 + height]))
    q = 0.5 * layout.speed**2
    slope, shear = -0.3 * q * (1 + 0.1 * number), 0.004 * q  # p = a + b x, friction on the body
    middle = points[quads].mean(1)
    p = 0.1 * q + slope * middle[:, 0]
    tau = np.tile([-shear, 0.0, 0.5 * shear], (len(quads), 1))  # of the wall on the fluid
    surface = {layout.surface["p"]: p, layout.surface["cp"]: p / q, "yPlusMean": 0 * p + 30.0}
    surface[layout.surface["tau"]] = tau
    write_vtp(run / f"boundary_{number}.vtp", points, quads, surface)
    skin = 2 * (length * width + width * height + height * length)
    drag = -slope * length * width * height + shear * skin
    cd, cl = drag / (q * layout.area), -0.5 * shear * skin / (q * layout.area)
    ratio = layout.area / (width * height)
    (run / f"{layout.stl}_{number}.stl").write_text("solid\nendsolid\n")
    for folder in ("images", "slices"):  # not meshes of their own
        (run / folder).mkdir()
    shutil.copy(run / f"boundary_{number}.vtp", run / "slices" / "xNormal_0.vtp")
    if layout is AHMED:
        write_row(run / f"force_mom_{number}.csv", "cd, cl", cd, cl)
        write_row(run / f"force_mom_varref_{number}.csv", "cd, cl", cd * ratio, cl * ratio)
        header = (
            "body-length,body-height,body-width,front-arc-diameter,slant-angle-length,"
            "slant-angle-height,slant-surface-length,slant-angle-degrees"
        )
        mm = [1e3 * length, 1e3 * height, 1e3 * width, 190.0, 95.0, 174.0, 198.0, 61.2]
        write_row(run / f"geo_parameters_{number}.csv", header, *mm)
    else:
        names, rest = "Cd,Cl,Clf,Clr,Cs", (0.6 * cl, 0.4 * cl, 0.0)
        write_row(run / f"force_mom_constref_{number}.csv", names, cd, cl, *rest)
        write_row(run / f"force_mom_{number}.csv", names, cd * ratio, cl * ratio, *rest)
        values = [number, *(f"- {k}.5" for k in range(len(CARS)))]  # signs stand apart
        header = "Run, " + ", ".join(CARS)
        write_row(run / f"geo_parameters_{number}.csv", header, *values)
        reference = f"2.79,{width * height},(1.402 0 -0.3176),2.78618,2.17,(1.40009 0 -0.3176)"
        header = "lRef,aRef,forcesCoR,lRefRef,aRefRef,forcesCoRRef"
        write_row(run / f"geo_ref_{number}.csv", header, reference)
    out = {"cd": cd, "cl": cl, "ratio": ratio, "points": points, "quads": quads, "p": p, "q": q}
    out |= {"cp": p / q, "tau": tau, "height": height}
    if volume:
        out["volume"] = write_volume(run / f"volume_{number}.vtu", layout.volume, layout.speed)
    return out


def cut(file: Path, parts: int = 2) -> None:
    """A file in parts, as DrivAerML's volumes are handed out."""
    data = file.read_bytes()
    file.unlink()
    size = -(-len(data) // parts)
    for k in range(parts):
        file.with_name(f"{file.name}.{k:02d}.part").write_bytes(data[k * size : (k + 1) * size])


def check_sample(sample: meshsim.Sample, layout: Layout, made: dict) -> None:
    """What was written is what is stored, and the forces on it are those of the CSV file."""
    surface = sample.branches["surface"]
    assert isinstance(surface, meshsim.Mesh) and surface.dim == 3
    assert np.array_equal(surface.points.numpy(), made["points"].astype("f4"))
    (block,) = surface.cells
    assert block.type in ("quad", "polygon") and surface.n_cells == len(made["quads"])
    assert np.array_equal(block.nodes.reshape(-1, 4).numpy(), made["quads"])
    assert not surface.point_fields
    for name, key in (("pressure", "p"), ("cp", "cp"), ("wall_shear_stress", "tau")):
        stored = surface.cell_fields[name]
        assert stored.dtype is torch.float32
        assert np.array_equal(stored.numpy(), made[key].astype("f4"))
    known = {name: values.tolist() for name, values in sample.parameters.items()}
    assert known["cd"] == made["cd"] and known["cl"] == made["cl"]
    assert known["cd_varref"] == pytest.approx(made["cd"] * made["ratio"])
    on_body = surface.with_fields(cell={"friction": -surface.cell_fields["wall_shear_stress"]})
    force = body_forces(on_body, "pressure", "friction", outward=False)
    found = coefficients(force, 1.0, layout.speed, layout.area)
    assert float(found["drag"]) == pytest.approx(made["cd"], rel=1e-5)
    assert float(found["lift"]) == pytest.approx(made["cl"], rel=1e-5)
    if "volume" in made:
        volume, given = sample.branches["volume"], made["volume"]
        assert isinstance(volume, meshsim.Mesh) and not volume.point_fields
        assert set(volume.cell_fields) == {"pressure", "cp", "velocity"}
        assert torch.equal(volume.cell_fields["velocity"], given.cell_fields[layout.volume["u"]])
        assert torch.equal(volume.cell_fields["pressure"], given.cell_fields[layout.volume["p"]])


def run_through(config: Path, store: Path, body: Path, out: Path, *more: str) -> meshsim.Mesh:
    """Train two steps and predict on a body's surface."""
    run = out / "run"
    given = [f"data.store={store}", *SMALL, *more]
    assert main(["train", str(config), "-o", str(run), *given]) == 0
    assert main(["evaluate", str(run), str(store)]) == 0
    assert main(["predict", str(run), str(body), "-o", str(out / "answer.vtp")]) == 0
    answer = meshsim.read(out / "answer.vtp", trust=True)
    assert isinstance(answer, meshsim.Mesh)
    return answer


@pytest.mark.parametrize("layout", [AHMED, DRIVAER], ids=lambda layout: layout.name)
def test_from_published_folders_to_a_prediction(
    tmp_path: Path, layout: Layout, capsys: pytest.CaptureFixture
) -> None:
    folder, store = tmp_path / "in", tmp_path / "s.zarr"
    made = {f"run_{k}": write_run(folder, layout, k) for k in range(1, 7)}
    if layout is DRIVAER:
        for k in range(1, 7):
            cut(folder / f"run_{k}" / f"volume_{k}.vtu", 3 if k == 2 else 2)
    (folder / "force_mom_all.csv").write_text("run,cd,cl\n")
    recipe = DATASETS / layout.name
    config = str(recipe / "preprocess.toml")
    assert main(["preprocess", str(folder), "-o", str(store), "--config", config]) == 0
    assert "6 samples written, 0 there already, 0 failed" in capsys.readouterr().err
    assert {p.name for p in store.iterdir()} <= {
        "zarr.json",
        "samples",
        "statistics",
        "manifest.json",
    }
    opened = meshsim.Store(store)
    assert opened.names == sorted(made)
    assert sorted(n for names in opened.splits.values() for n in names) == sorted(made)
    for name, one in made.items():
        check_sample(opened.sample(name), layout, one)
    first = {name: float(x) for name, x in opened.sample("run_1").parameters.items() if not x.dim()}
    if layout is AHMED:
        assert first["length"] == 1020.0 and first["slant_angle"] == 61.2
        assert len(first) == 4 + 8
    else:
        assert [first[name] for name in CARS] == [-(k + 0.5) for k in range(len(CARS))]
        assert first["area"] == pytest.approx(0.39 * made["run_1"]["height"])
        assert first["wheelbase"] == 2.79 and first["area_constref"] == 2.17
        provenance = opened.provenance("run_2")["files"]
        assert sum(name.endswith(".part") for name in provenance) == 3

    assert main(["preprocess", str(folder), "-o", str(store), "--config", config]) == 0
    assert "0 samples written, 6 there already" in capsys.readouterr().err
    body = folder / "run_3" / "boundary_3.vtp"
    answer = run_through(
        recipe / "config.toml", store, body, tmp_path, "surrogate.branches.volume.anchors=32"
    )
    shape = {name: tuple(x.shape) for name, x in answer.cell_fields.items()}
    cells = len(made["run_3"]["quads"])
    assert shape["pressure"] == (cells,) and shape["wall_shear_stress"] == (cells, 3)


def test_surface_of_drivaerml_alone(tmp_path: Path) -> None:
    made = {f"run_{k}": write_run(tmp_path / "in", DRIVAER, k, volume=False) for k in range(1, 4)}
    config = read_preprocess_config(DATASETS / "drivaerml" / "surface.toml") | {"trust": True}
    config["splits"] = {"train": ["run_1", "run_2"], "test": ["run_3"]}
    report = preprocess([tmp_path / "in"], tmp_path / "s.zarr", config=config)
    assert report.done == 3 and not report.failed
    store = meshsim.Store(tmp_path / "s.zarr")
    for name, one in made.items():
        check_sample(store.sample(name), DRIVAER, one)
    recipe = DATASETS / "drivaerml" / "surface_config.toml"
    body = tmp_path / "in" / "run_3" / "boundary_3.vtp"
    answer = run_through(recipe, tmp_path / "s.zarr", body, tmp_path)
    assert "pressure" in answer.cell_fields


def test_the_authors_division(tmp_path: Path) -> None:
    """Runs that were not downloaded are left out of the lists; entries are names or numbers."""
    for k in range(1, 6):
        write_run(tmp_path / "in", DRIVAER, k, volume=False)
    (tmp_path / "in" / "splits").mkdir()
    lists = {"full_train": ["run_1", "run_3", "run_400"], "full_val": [5], "full_test": [2, 44]}
    (tmp_path / "in" / "splits" / "manifest.json").write_text(json.dumps(lists))
    config = read_preprocess_config(DATASETS / "drivaerml" / "surface.toml") | {"trust": True}
    names = {"train": "full_train", "valid": "full_val", "test": "full_test"}
    config["splits"] = {
        split: {"json": "splits/manifest.json", "key": key} for split, key in names.items()
    }
    assert preprocess([tmp_path / "in"], tmp_path / "s.zarr", config=config).done == 5
    splits = meshsim.Store(tmp_path / "s.zarr").splits
    assert splits == {"train": ["run_1", "run_3"], "valid": ["run_5"], "test": ["run_2"]}


def test_what_a_run_lacks_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for k in range(1, 9):
        write_run(folder, AHMED, k, volume=k != 2)
    (folder / "run_3" / "geo_parameters_3.csv").unlink()  # run 500 has none as published
    (folder / "run_4" / "force_mom_4.csv").write_text("cd, cx\n0.3, 0.1\n")
    surface = folder / "run_5" / "boundary_5.vtp"
    surface.write_text(surface.read_text().replace("'pMean'", "'pMaen'"))
    config = read_preprocess_config(DATASETS / "ahmedml" / "preprocess.toml") | {"trust": True}
    assert len(find_sources([folder], config)) == 8
    report = preprocess([folder], tmp_path / "s.zarr", config=config)
    failed = {Path(path).name: message for path, message in report.failed}
    assert report.done == 4 and report.exit_code == 1
    assert "no file fits branch 'volume' (volume_*.vtu)" in failed["run_2"]
    assert "no file fits 'geo_parameters_*.csv'" in failed["run_3"]
    assert "force_mom_4.csv: no column 'cl'" in failed["run_4"]
    assert "'run_5': cell field 'pressure' is missing" in failed["run_5"]
    assert meshsim.Store(tmp_path / "s.zarr").names == ["run_1", "run_6", "run_7", "run_8"]
