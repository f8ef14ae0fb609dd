"""A report shows what a folder holds and nothing that could run, and says what it leaves out."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from helpers.jobs import reports
from helpers.jobs.damage import list_again

from fxprune.cli import main
from fxprune.errors import CheckpointError
from fxprune.passes.job import result_files
from fxprune.passes.report.charts import scores
from fxprune.passes.report.numbers import Measure
from fxprune.passes.report.recording import read_recording
from fxprune.passes.report.verdicts import verdicts_of
from fxprune.passes.report.write import write_report

HOSTILE = '</style><script src=x>alert(1)</script>\' onload="x" |`*&'
SECTIONS = ["What changed", "Checks", "Each form of the network", "ONNX by batch", "Test images"]
SECTIONS += ["What stays as it is, and why", "Every group", "How it was made", "What to do next"]


class Page(HTMLParser):
    """Tags with their attributes, and text, of a page; every tag must be closed by its own."""

    EMPTY = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def folder(tmp_path):
    return reports.write(tmp_path / "out", reports.result(tmp_path / "out"), reports.recording())


def page_of(folder, shown="out"):
    write_report(folder, shown)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def headings(folder):
    return re.findall(r"<h2>(.*?)</h2>", (folder / "report.html").read_text(encoding="utf-8"))


def test_a_page_has_every_section_and_every_picture_describes_itself(folder):
    page = page_of(folder)
    assert headings(folder) == SECTIONS
    pictures = page.all("svg")
    names = [each["aria-labelledby"].split() for each in pictures]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert [name for pair in names for name in pair] == ids
    assert [each.removesuffix("-title") for each in ids[::2]] == [
        *("widths", "params", "macs", "deviation", "accuracy", "latency", "forms")
    ]
    text = " ".join(page.words)
    for said in (
        "net.weight: 16 to 8",
        "the largest deviation ends at 9.0e-07",
        "97.00% after the snap",
        "the snap moved a row by 1.0e-06 at most",
        "What the wide network said before C-SGD",
    ):
        assert said in text
    for each in page.all("img"):
        assert re.fullmatch(r"Test image( of class net)?: the wide network says (net|same), .*", each["alt"])


def test_a_fold_has_a_page_without_training(tmp_path):
    found = reports.fold_result(tmp_path, pairs=17)
    page = page_of(reports.write(tmp_path, found, reports.recording()))
    assert " ".join(page.words).count("medians of 17 pairs, wide and narrow in turn") == 2  # picture, table
    assert headings(tmp_path) == SECTIONS
    text = " ".join(page.words)
    assert "agreement" in text and "2 layers had too few images" in text and "Accuracy over steps" not in text
    assert "Kept: readers, from 64 images without labels" in text and "before C-SGD" not in text


def test_the_words_have_what_the_pictures_draw(folder):
    write_report(folder, "out")
    words = (folder / "report.md").read_text(encoding="utf-8")
    assert "| csgd | 1 | 20 | 1.0e-03 | 1.0e-03 | 93.00% |" in words
    assert "the snap moved a row by 1.0e-06 at most" in words


def test_a_folder_of_an_earlier_version_leaves_sections_out_with_a_word(tmp_path):
    page = page_of(reports.write(tmp_path, reports.result(tmp_path)))
    gone = ("ONNX by batch", "Test images", "What stays as it is, and why", "Every group")
    assert headings(tmp_path) == [each for each in SECTIONS if each not in gone]
    assert "which an earlier version" in " ".join(page.words)
    (tmp_path / "metrics.jsonl").write_text("")
    assert "Left out: deviations" in " ".join(page_of(tmp_path).words)


def test_what_files_say_never_becomes_markup(tmp_path):
    found = reports.result(tmp_path, HOSTILE)
    folder = reports.write(tmp_path, found, reports.recording(HOSTILE))
    plain_page = page_of(reports.write(tmp_path / "b", reports.result("b"), reports.recording()))
    page = page_of(folder, HOSTILE)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain_page.tags]
    assert {name for _, attributes in page.tags for name in attributes if name.startswith("on")} == set()
    words = (folder / "report.md").read_text(encoding="utf-8")
    prose = re.sub(r"`[^`\n]*`|^    .*$", "", re.sub(r"\\.", "", words), flags=re.M)  # code shows what it holds
    assert "<" not in prose.replace("&lt;", "") and "*&" not in prose
    tables = [line for line in prose.splitlines() if line.startswith("|")]
    plain_lines = (tmp_path / "b" / "report.md").read_text(encoding="utf-8").splitlines()
    assert [line.count("|") for line in tables] == [line.count("|") for line in plain_lines if line.startswith("|")]


def test_a_page_loads_nothing(folder):
    page = page_of(folder)
    policy = next(each["content"] for each in page.all("meta") if "Policy" in each.get("http-equiv", ""))
    assert policy.startswith("default-src 'none';")
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "form", "base"} == set()
    links = [value for _, each in page.tags for name, value in each.items() if name in ("src", "href", "srcset")]
    assert links and all(link.startswith("data:") for link in links)
    assert not re.search(r"url\(|@import", (folder / "report.html").read_text(encoding="utf-8"))


def change(folder, name, edit):
    value = json.loads((folder / name).read_text())
    edit(value)
    (folder / name).write_text(json.dumps(value))


@pytest.mark.parametrize(
    "edit",
    [
        lambda value: value.update(version=99),
        lambda value: value.update(more=1),
        lambda value: value.pop("frozen"),
        lambda value: value["shares"][0].update(width=[8, 16]),
        lambda value: value["shares"][0].update(name=3),
        lambda value: value["shares"][0].update(macs=[-1, -2]),
        lambda value: value["onnx"].update({"1": "small"}),
        lambda value: value["onnx"].update({"one": 0.1}),
        lambda value: value["answers"][0].update(png='"><script>'),
        lambda value: value["answers"][0].update(png=base64.b64encode(b"<svg onload=x>").decode()),
        lambda value: value["frozen"][0].update(weights=None),
        lambda value: value["frozen"].append([]),
    ],
)
def test_damaged_recordings_are_told(folder, edit):
    change(folder, "report.json", edit)
    with pytest.raises(CheckpointError, match=r"report\.json"):
        write_report(folder, "out")
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("deviation_largest", 1e-320), ("deviation_largest", 1e308), ("top1", "high"), ("top1", 1e308), ("top1", True)],
)
def test_odd_records_make_a_page_or_an_error(folder, name, value):
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"phase": "csgd", "epoch": 9, "step": 99, name: value}) + "\n")
    try:
        write_report(folder, "out")
    except CheckpointError:
        return
    assert not re.search(r"\b(nan|inf)\b", (folder / "report.html").read_text(encoding="utf-8"))


def test_the_report_command_writes_files_that_verify(folder, capsys, monkeypatch):
    for _ in range(2):  # what it wrote is replaced
        assert main(["report", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "narrow, in onnxruntime" in out and err.endswith(f"written: {folder / 'report.html'}\n")
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert {"report.html", "report.md", "report.json", "deviation.svg"} <= listed.keys()
    assert f"fxprune verify {folder}" in (folder / "report.md").read_text(encoding="utf-8")
    (folder / "report.html").write_text("mine")
    assert main(["report", str(folder)]) == 0
    assert "not written" in capsys.readouterr().err
    assert (folder / "report.html").read_text() == "mine"
    change(folder, "report.json", lambda value: value.update(onnx={}))
    assert main(["report", str(folder)]) == 2
    list_again(folder)
    assert main(["report", str(folder)]) == 0


def test_a_report_that_fails_does_not_end_a_job_but_a_full_disk_does(tmp_path, monkeypatch, capsys):
    def fails(error):
        def call(*_):
            raise error

        return call

    found = reports.result(tmp_path)
    monkeypatch.setattr(result_files, "write_report", fails(ZeroDivisionError("of ours")))
    result_files.write_result(found, tmp_path)
    assert "the report was not written: ZeroDivisionError" in capsys.readouterr().err
    assert (tmp_path / "summary.json").exists()
    monkeypatch.setattr(result_files, "write_report", fails(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        result_files.write_result(found, tmp_path)


def test_a_recording_is_read_as_it_was_written(folder):
    assert read_recording(folder) == reports.recording()
    assert read_recording(folder / "absent") is None


def test_verdicts_fail_where_numbers_do(tmp_path):
    good = reports.result(tmp_path)
    assert all(verdict.holds for verdict in verdicts_of(good))
    *rows, narrow, exported = good.stages
    stages = *rows, replace(narrow, changed=2), replace(exported, changed=2)
    bad = replace(good, stages=stages, max_rel_error=1e-3, onnx_rel_error=1e-3, deviation=0.5, snap_changed=5)
    assert not any(verdict.holds for verdict in verdicts_of(bad))
    page = page_of(reports.write(tmp_path, bad, reports.recording()))
    assert "✗ A check does not hold: see below." in page.words


@pytest.mark.parametrize(("phases", "legend"), [(["csgd"], ["C-SGD"]), (["train", "csgd"], ["training", "C-SGD"])])
def test_a_legend_names_what_is_drawn(phases, legend):
    records = [{"phase": phase, "step": step, "top1": 0.5} for step, phase in enumerate(phases)]
    words = Page(scores(records, {"snap": 0.5}, Measure("accuracy", "top1", "image", "{:.2%}".format))).words
    assert [word for word in words if word in {"training", "C-SGD"}] == [word for word in legend for _ in range(2)]
