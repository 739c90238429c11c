"""The OpenFOAM case of one body: mesh, boundary conditions, schemes, what is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ahmed_geometry import Design, edges, write_stl

DENSITY = 1.2  # kg/m³
VISCOSITY = 1.5e-5  # m²/s, kinematic
INTENSITY = 0.01  # of the inflow's turbulence
RATIO = 10.0  # of eddy to molecular viscosity in the inflow
EVERY = 5  # iterations between records of forces, fluxes and means
BODY, GROUND, MIDDLE = "body", "ground", "symmetry"


@dataclass(frozen=True)
class Numerics:
    """How a case is solved.

    Arguments:
        cells: about how many the mesh has.
        iterations: of SIMPLE.
        averaged: the last of them, whose mean is the result.
        layers: of flat cells on the body.
    """

    cells: int = 80_000
    iterations: int = 500
    averaged: int = 100
    layers: int = 2

    @property
    def size(self) -> float:
        """Edge of a cell at the body (m): between what is refined along surfaces and in boxes."""
        return 0.01 * (105_000 / self.cells) ** (1.0 / 2.7)


def write_case(design: Design, numerics: Numerics, folder: Path) -> None:
    """Everything that `blockMesh`, `snappyHexMesh` and `simpleFoam` read."""
    for name, text in files(design, numerics).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_header(path.name, path.parent.name) + text)
    (folder / "constant" / "triSurface").mkdir(parents=True, exist_ok=True)
    write_stl(design, folder / "constant" / "triSurface" / "body.stl")


def files(design: Design, numerics: Numerics) -> dict[str, str]:
    """{path: text} of the dictionaries of a case, without their headers."""
    return {
        "system/blockMeshDict": _block_mesh(numerics.size),
        "system/snappyHexMeshDict": _snappy(design, numerics),
        "constant/triSurface/body.eMesh": _edges(design),
        "system/controlDict": _control(design, numerics),
        "system/fvSchemes": SCHEMES,
        "system/fvSolution": SOLUTION,
        "constant/transportProperties": (
            f"transportModel Newtonian;\nnu [0 2 -1 0 0 0 0] {VISCOSITY};\n"
        ),
        "constant/turbulenceProperties": (
            "simulationType RAS;\nRAS { RASModel kOmegaSST; turbulence on; printCoeffs off; }\n"
        ),
        **{f"0/{name}": text for name, text in _fields(design).items()},
    }


def _header(name: str, place: str) -> str:
    kinds = {"U": "volVectorField", "body.eMesh": "featureEdgeMesh"}
    kind = kinds.get(name, "volScalarField" if place == "0" else "dictionary")
    return f"FoamFile {{ version 2.0; format ascii; class {kind}; object {name}; }}\n"


def _vector(values: object) -> str:
    return "(" + " ".join(f"{v:.9g}" for v in np.ravel(np.asarray(values, float))) + ")"


def _block_mesh(size: float) -> str:
    # cubes of sixteen times the cells at the body, over about 2.5 m before it, 5 m behind it,
    # 1.6 m beside and above it
    base = 16.0 * size
    low = np.array([-2.5, 0.0, 0.0])
    n = np.ceil((np.array([6.2, 1.6, 1.6]) - low) / base).astype(int)
    high = low + n * base
    corners = [
        [(low, high)[i][0], (low, high)[j][1], (low, high)[k][2]]
        for k in (0, 1)
        for j in (0, 1)
        for i in (0, 1)
    ]
    points = "\n".join(_vector(c) for c in corners)
    sides = {
        "inlet": ("patch", "(0 4 6 2)"),
        "outlet": ("patch", "(1 3 7 5)"),
        MIDDLE: ("symmetry", "(0 1 5 4)"),
        "side": ("patch", "(2 6 7 3)"),
        GROUND: ("wall", "(0 2 3 1)"),
        "top": ("patch", "(4 5 7 6)"),
    }
    patches = "\n".join(f"{k} {{ type {t}; faces ({f}); }}" for k, (t, f) in sides.items())
    return (
        f"scale 1;\nvertices (\n{points}\n);\n"
        f"blocks (hex (0 1 3 2 4 5 7 6) {_vector(n)} simpleGrading (1 1 1));\n"
        f"edges ();\nboundary (\n{patches}\n);\nmergePatchPairs ();\n"
    )


def _boxes(d: Design) -> list[tuple[int, list[float], list[float]]]:
    """(level, lowest corner, highest corner) of what is refined around the body."""
    top, half = d.clearance + d.height, d.width / 2.0
    return [
        (1, [-1.2, -1.0, -1.0], [d.length + 4.0, 1.0, 1.1]),
        (2, [-0.5, -1.0, -1.0], [d.length + 1.8, half + 0.3, top + 0.3]),
        (3, [-0.15, -1.0, -1.0], [d.length + 0.8, half + 0.1, top + 0.1]),
        (4, [d.length - d.run - 0.05, -1.0, -1.0], [d.length + 0.25, half + 0.03, top + 0.03]),
    ]


def _snappy(d: Design, numerics: Numerics) -> str:
    boxes = list(enumerate(_boxes(d)))
    shapes = "\n".join(
        f"box{i} {{ type searchableBox; min {_vector(a)}; max {_vector(b)}; }}"
        for i, (_, a, b) in boxes
    )
    inside = "\n".join(
        f"box{i} {{ mode inside; levels ((1e15 {level})); }}" for i, (level, _, _) in boxes
    )
    layers = "true" if numerics.layers else "false"
    return f"""castellatedMesh true;
snap true;
addLayers {layers};
geometry
{{
body.stl {{ type triSurfaceMesh; name {BODY}; }}
{shapes}
}}
castellatedMeshControls
{{
maxLocalCells 10000000;
maxGlobalCells 20000000;
minRefinementCells 0;
maxLoadUnbalance 0.1;
nCellsBetweenLevels 2;
features ({{ file "body.eMesh"; level 4; }});
refinementSurfaces {{ {BODY} {{ level (4 4); patchInfo {{ type wall; }} }} }}
resolveFeatureAngle 30;
refinementRegions
{{
{inside}
}}
locationInMesh {_vector([-2.0123, 0.7123, 0.7321])};
allowFreeStandingZoneFaces true;
}}
snapControls
{{
nSmoothPatch 3;
tolerance 2.0;
nSolveIter 30;
nRelaxIter 5;
nFeatureSnapIter 10;
implicitFeatureSnap false;
explicitFeatureSnap true;
multiRegionFeatureSnap false;
}}
addLayersControls
{{
relativeSizes true;
layers {{ {BODY} {{ nSurfaceLayers {max(numerics.layers, 1)}; }} }}
expansionRatio 1.4;
finalLayerThickness 0.4;
minThickness 0.1;
nGrow 0;
featureAngle 130;
slipFeatureAngle 30;
nRelaxIter 3;
nSmoothSurfaceNormals 1;
nSmoothNormals 3;
nSmoothThickness 10;
maxFaceThicknessRatio 0.5;
maxThicknessToMedialRatio 0.3;
minMedialAxisAngle 90;
minMedianAxisAngle 90;
nBufferCellsNoExtrude 0;
nLayerIter 30;
}}
meshQualityControls
{{
maxNonOrtho 65;
maxBoundarySkewness 20;
maxInternalSkewness 4;
maxConcave 80;
minVol 1e-13;
minTetQuality 1e-15;
minArea -1;
minTwist 0.02;
minDeterminant 0.001;
minFaceWeight 0.05;
minVolRatio 0.01;
minTriangleTwist -1;
nSmoothScale 4;
errorReduction 0.75;
relaxed {{ maxNonOrtho 75; }}
}}
mergeTolerance 1e-6;
"""


def _edges(design: Design) -> str:
    points, lines = edges(design)
    used, rows = np.unique(lines, return_inverse=True)
    listed = "\n".join(_vector(p) for p in points[used])
    pairs = "\n".join(f"({a} {b})" for a, b in rows.reshape(-1, 2))
    return f"{len(used)}\n(\n{listed}\n)\n{len(lines)}\n(\n{pairs}\n)\n"


def turbulence(inflow: float) -> tuple[float, float]:
    """Kinetic energy k (m²/s²) and specific rate ω (1/s) of the inflow's turbulence.

    k = 3/2 (I U)², ω = k / ν_t.
    """
    k = 1.5 * (INTENSITY * inflow) ** 2
    return k, k / (RATIO * VISCOSITY)


def _fields(d: Design) -> dict[str, str]:
    k, omega = turbulence(d.inflow)
    stream = f"uniform {_vector([d.inflow, 0, 0])}"
    slip = dict.fromkeys(("side", "top"), "type slip;") | {MIDDLE: "type symmetry;"}

    def field(dimensions: str, inside: str, patches: dict[str, str]) -> str:
        rows = "\n".join(f"{name} {{ {what} }}" for name, what in (slip | patches).items())
        return f"dimensions {dimensions};\ninternalField {inside};\nboundaryField\n{{\n{rows}\n}}\n"

    def quantity(dimensions: str, value: float, wall: str) -> str:
        text = f"uniform {value:.9g}"
        walls = f"type {wall}; value {text};"
        return field(
            dimensions,
            text,
            {
                "inlet": f"type fixedValue; value {text};",
                "outlet": f"type inletOutlet; inletValue {text}; value {text};",
                GROUND: walls,
                BODY: walls,
            },
        )

    zero = "type calculated; value uniform 0;"
    wall = "type nutkWallFunction; value uniform 0;"
    return {
        "U": field(
            "[0 1 -1 0 0 0 0]",
            stream,
            {
                "inlet": f"type fixedValue; value {stream};",
                "outlet": f"type inletOutlet; inletValue uniform (0 0 0); value {stream};",
                # a road: it moves with the air
                GROUND: f"type fixedValue; value {stream};",
                BODY: "type fixedValue; value uniform (0 0 0);",
            },
        ),
        "p": field(
            "[0 2 -2 0 0 0 0]",
            "uniform 0",
            {
                "inlet": "type zeroGradient;",
                "outlet": "type fixedValue; value uniform 0;",
                GROUND: "type zeroGradient;",
                BODY: "type zeroGradient;",
            },
        ),
        "k": quantity("[0 2 -2 0 0 0 0]", k, "kqRWallFunction"),
        "omega": quantity("[0 0 -1 0 0 0 0]", omega, "omegaWallFunction"),
        "nut": field(
            "[0 2 -1 0 0 0 0]",
            "uniform 0",
            {"inlet": zero, "outlet": zero, GROUND: wall, BODY: wall},
        ),
    }


def _control(d: Design, numerics: Numerics) -> str:
    end = numerics.iterations
    start = end - numerics.averaged + EVERY  # the first that counts
    often = f"executeControl timeStep; executeInterval {EVERY}"
    mean = "{ mean on; prime2Mean off; base time; }"
    fluxes = "\n".join(
        f"""flux_{name}
{{
type surfaceFieldValue; libs ("libfieldFunctionObjects.so"); log false; writeFields false;
regionType patch; name {name}; operation sum; fields (phi);
{often}; writeControl timeStep; writeInterval {EVERY};
}}"""
        for name in ("inlet", "outlet")
    )
    middle = _vector([d.length / 2.0, 0.0, d.clearance])
    return f"""application simpleFoam;
startFrom startTime;
startTime 0;
stopAt endTime;
endTime {end};
deltaT 1;
writeControl timeStep;
writeInterval {end};
purgeWrite 0;
writeFormat binary;
writePrecision 9;
writeCompression off;
timeFormat general;
timePrecision 6;
runTimeModifiable false;
functions
{{
stress
{{
type wallShearStress; libs ("libfieldFunctionObjects.so"); patches ({BODY}); log false;
{often}; writeControl onEnd;
}}
forces
{{
type forces; libs ("libforces.so"); patches ({BODY}); rho rhoInf; rhoInf {DENSITY}; log false;
CofR {middle}; {often}; writeControl timeStep; writeInterval {EVERY};
}}
{fluxes}
means
{{
type fieldAverage; libs ("libfieldFunctionObjects.so"); timeStart {start}; log false;
{often}; writeControl onEnd;
fields ( U {mean} p {mean} k {mean} wallShearStress {mean} );
}}
}}
"""


SCHEMES = """ddtSchemes { default steadyState; }
gradSchemes { default Gauss linear; grad(U) cellLimited Gauss linear 1; }
divSchemes
{
default none;
div(phi,U) bounded Gauss MinmodV;
div(phi,k) bounded Gauss upwind;
div(phi,omega) bounded Gauss upwind;
div((nuEff*dev2(T(grad(U))))) Gauss linear;
}
laplacianSchemes { default Gauss linear limited 0.5; }
interpolationSchemes { default linear; }
snGradSchemes { default limited 0.5; }
wallDist { method meshWave; }
"""
SOLUTION = """solvers
{
p { solver GAMG; smoother GaussSeidel; tolerance 1e-8; relTol 0.1; }
U { solver smoothSolver; smoother symGaussSeidel; tolerance 1e-9; relTol 0.1; }
k { $U; }
omega { $U; }
}
SIMPLE { consistent yes; nNonOrthogonalCorrectors 0; }
relaxationFactors { equations { U 0.9; k 0.7; omega 0.7; } }
"""
