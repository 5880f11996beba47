"""What a grid's report shows: tables, and one page of HTML that needs nothing else."""

import csv
import html.parser
import re
import statistics
from xml.etree import ElementTree

import pytest

from tools.grid.curves import Curve, draw
from tools.grid.find import Finder, outcome_of
from tools.grid.report import write_report

VOID = {"meta", "br", "img", "link", "input"}


class Page(html.parser.HTMLParser):
    """Checks that elements are closed in order; keeps their attributes and the texts of cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append((self.open[-1] if self.open else "", text))


@pytest.fixture(scope="module")
def report(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert write_report(trained.read(), Finder(), folder) == []
    return folder


@pytest.fixture(scope="module")
def best(trained):
    """The best top-1 of the plain student and of KD, by seed."""
    values = {}
    for run in trained.read().runs:
        values.setdefault(run.is_plain, {})[run.seed] = outcome_of(Finder().look(run)).best
    return values[True], values[False]


def test_the_csv_has_means_deviations_and_paired_differences(report, best):
    plain, kd = best
    rows = list(csv.DictReader((report / "results.csv").open(encoding="utf-8")))
    assert [row["method"] for row in rows] == ["plain student", "KD"]
    for row, values in zip(rows, (plain, kd), strict=True):
        assert float(row["best"]) == pytest.approx(statistics.fmean(values.values()))
        assert float(row["best_sd"]) == pytest.approx(statistics.stdev(values.values()))
    differences = [kd[seed] - plain[seed] for seed in (1, 2)]
    assert float(rows[1]["to_plain_student"]) == pytest.approx(statistics.fmean(differences))
    assert float(rows[1]["to_plain_student_se"]) == pytest.approx(statistics.stdev(differences) / 2**0.5)
    assert float(rows[1]["to_published"]) == pytest.approx(statistics.fmean(kd.values()) - 70.5)
    assert rows[0]["to_plain_student"] == rows[0]["to_published"] == ""


def test_the_markdown_has_a_row_a_cell_and_its_command(report, best):
    text = (report / "results.md").read_text(encoding="utf-8")
    plain, _ = best
    assert "4 of 4 runs finished." in text and "seeds 1, 2. Published numbers: a paper." in text
    cell = f"{statistics.fmean(plain.values()):.2f} ± {statistics.stdev(plain.values()):.2f}"
    assert f"| plain student | 2 | {cell} |" in text
    assert "train.py --selected_model resnet8 --seed 1" in text
    (figure,) = re.findall(r"!\[.*\]\((.+)\)", text)
    assert ElementTree.parse(report / figure).getroot().tag.endswith("svg")


def test_one_seed_tells_no_error(trained, tmp_path):
    grid = trained.read()
    for cell in grid.parts[0].cells:
        del cell.runs[1:]
    write_report(grid, Finder(), tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert len(re.findall(r"[+-]\d+\.\d\d ± n/a", text)) == 3


def test_the_page_is_whole_and_needs_no_network(report):
    text = (report / "results.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {name for name, _ in page.attributes} & {"src", "href"} and "@import" not in text and "url(" not in text
    assert "Tiny &amp; &lt;small&gt;" in text and "<small>" not in text
    assert text.count('<tr class="row"') == 2 and "prefers-color-scheme: dark" in text
    words = [text for tag, text in page.texts if tag == "span"]
    assert words.count("python") == 4 and words[1].endswith("CIFAR-100/Utils/train.py")


def test_a_grid_without_runs_has_its_tables(project, tmp_path):
    write_report(project.read(), Finder(), tmp_path / "out")
    text = (tmp_path / "out/results.md").read_text(encoding="utf-8")
    assert "0 of 4 runs finished (4 missing)." in text and "| KD | 0 of 2 |" in text
    Page((tmp_path / "out/results.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("runs", [[[5.0]], [[5.0, 5.0]], [[0.0, 100.0], [50.0, 60.0]], [[1.0] * 300]])
def test_curves_stay_in_their_field(runs):
    root = ElementTree.fromstring(draw([Curve(f"method {n} <&>", runs) for n in range(13)], "a → b"))
    width, height = map(float, root.get("viewBox").split()[2:])
    for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
        points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
