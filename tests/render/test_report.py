"""The report page and the curves of a run."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from meshsim import render
from meshsim.check import InputError

CASE = {
    "name": "test_00",
    "reynolds": 101.7,
    "inflow": 1.5,
    "model": {"one_step": 0.006, "rollout_50": 0.029, "rollout_all": 0.09},
    "persistence": {"one_step": 0.039, "rollout_50": 0.148, "rollout_all": 0.3},
    "time_mean": {"rollout_50": 0.106, "rollout_all": 0.08},
    "last_period": {"rollout_all": float("nan")},
    "wake": {"amplitude": 0.4, "amplitude_true": 0.5, "frequency": 3.0, "frequency_true": 3.0},
}


class Tables(HTMLParser):
    """Rows of texts, and what is marked."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.best, self.stack, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "video"):
            self.stack.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1][0] in ("td", "th"):
            self.tables[-1][-1].append(data)
            if self.stack[-1][1].get("class") == "best":
                self.best.append(data)


def test_the_model_stands_beside_its_baselines(tmp_path):
    report = {"seconds": 512.4, "parameters": 251234, "cases": [CASE, CASE | {"reynolds": 80.0}]}
    text = render.report(report, {}, tmp_path / "r.html").read_text()
    page = Tables(text)
    assert not page.stack
    one, fifty, whole, wake = page.tables
    assert one[0] == ["flow", "model", "persistence"]
    assert one[1] == ["test_00 (Re 101.7)", "0.00600", "0.0390"] and one[2][0] == "test_00 (Re 80)"
    assert fifty[0][1:] == ["model", "persistence", "own time mean"]
    assert whole[0][-1] == "last period repeated" and whole[1][-1] == "–"
    assert page.best == ["0.00600"] * 2 + ["0.0290"] * 2 + ["0.0800"] * 2  # not only the model
    assert wake[1][1:] == ["0.400", "0.500", "−20.0 %", "3.00", "3.00", "+0.0 %"]
    assert "8 min 32 s in all" in text and "251\u202f234 parameters" in text


def test_pictures_are_inside_and_nothing_is_loaded(tmp_path):
    png, gif = tmp_path / "a.png", tmp_path / "b.gif"
    for file in (png, gif):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file)
    out = render.report(
        {"what": ["One.", "Two."]}, {"The <first>": png, "b": gif}, tmp_path / "r.html"
    )
    png.unlink(), gif.unlink()
    text = out.read_text()
    sources = [a["src"] for tag, a in Tables(text).tags if tag == "img"]
    assert [s[:15] for s in sources] == ["data:image/png;", "data:image/gif;"]
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "http" not in text
    assert "The &lt;first&gt;</figcaption>" in text and "<p>Two.</p>" in text


def test_metrics_of_steady_fields(tmp_path):
    report = {
        "title": "Cars",
        "metrics": {"pressure": {"relative_l2": 0.2, "rmse": 11.0}},
        "baselines": {"constant": {"pressure": {"relative_l2": 0.79, "rmse": 40.0}}},
        "stages": {"train": 12.345},
    }
    page = Tables(render.report(report, {}, tmp_path / "r.html").read_text())
    assert page.tables[0][1] == ["pressure, relative L2", "0.200", "0.790"]
    assert page.best == ["0.200", "11.0"] and page.tables[1][1] == ["train", "12.3"]


def test_an_empty_report_is_a_page_and_bad_pictures_are_named(tmp_path):
    assert "<h1>" in render.report({}, {}, tmp_path / "r.html").read_text()
    for picture in (tmp_path / "none.png", tmp_path / "a.txt"):
        with pytest.raises(InputError, match=picture.name):
            render.report({}, {"x": picture}, tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_curves_of_a_run(tmp_path, monkeypatch):
    log = tmp_path / "log.csv"
    rows = [f"{s},{1 / s},{1e-3},1" for s in range(10, 200, 10)]
    log.write_text("\n".join(["step,loss,lr,unroll", *rows]))
    alone = Image.open(render.curves(log, tmp_path / "a.png")).size
    (tmp_path / "validation.csv").write_text("step,velocity_rollout_all,score\n50,0.5,1\n100,,1\n")
    drawn = []
    from matplotlib.figure import Figure

    original = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda f, *a, **k: (drawn.append(f), original(f, *a, **k))[1]
    )
    both = Image.open(render.curves(log, tmp_path / "b.png")).size
    assert both[0] == alone[0] and both[1] > alone[1]
    line = drawn[0].axes[0].get_lines()[0]
    assert np.allclose(line.get_ydata(), [1 / s for s in range(10, 200, 10)])
    assert drawn[0].axes[0].get_yscale() == "log"
    assert any("velocity rollout all" in ax.get_ylabel() for ax in drawn[0].axes) or any(
        "velocity_rollout_all" in ax.get_ylabel() for ax in drawn[0].axes
    )


@pytest.mark.parametrize("text", ["", "step,loss\n", "a,b\n1,2\n"])
def test_logs_without_steps_are_named(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(InputError, match=r"log\.csv: expected columns step and loss"):
        render.curves(tmp_path / "log.csv", tmp_path / "a.png")
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        render.curves(tmp_path / "none.csv", tmp_path / "a.png")
