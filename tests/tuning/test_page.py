"""The page of a training: everything in it, nothing fetched, nothing of strangers run."""

import json
import re
from html.parser import HTMLParser

from PIL import Image

from gesso.tuning.page import curves, read_log, render_page, write_page
from gesso.tuning.settings import TuningSettings

ROWS = [
    {"step": 0, "samples": 0, "seen": 0.5, "held": 0.6, "held_62": 0.9, "held_937": 0.1},
    {"step": 10, "samples": 10, "loss": 0.4, "norm": 1.0},
    {"step": 10, "samples": 10, "seen": 0.3, "held": 0.7, "held_62": 0.8, "held_937": 0.2},
    {"step": 10, "samples": 10, "seen": 0.25, "held": 0.65, "held_62": 0.8, "held_937": 0.2},
    {"step": 5, "samples": 5, "not_finite_at": 8, "rate": 0.5},
]


def test_the_page(tmp_path):
    evil = '<script>alert(1)</script>"&'
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + '\n{"step": 11, "lo')
    (tmp_path / "samples").mkdir()
    for name in ("000000-0", "000010-0", "000010-1", "other"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "samples" / f"{name}.png")
    (tmp_path / "samples" / "note.txt").write_text(f"no sample of {evil}")
    settings = TuningSettings(output="my.safetensors", trigger=evil, sample_prompts=(evil,), steps=20)
    path = write_page(tmp_path, settings, {"pictures": 12, "model": evil})
    text = path.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,)", text)
    assert "default-src 'none'" in text and "no sample of &lt;script" in text
    assert text.count("<img") == 3 and "Step 10 of 20" in text
    assert "not finite: back to step 5, at 0.5 of the learning rate" in text
    assert "t = 62" in text and ">seen<" in text and ">held<" in text
    parser = HTMLParser()
    parser.feed(text)
    parser.close()


def test_of_rows_that_were_written_twice_the_last_counts(tmp_path):
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n[1]\nnothing\n")
    rows = read_log(tmp_path / "log.jsonl")
    assert [(row["step"], row.get("seen")) for row in rows] == [(0, 0.5), (5, None), (10, None), (10, 0.25)]
    assert read_log(tmp_path / "none.jsonl") == []


def test_curves():
    drawn = curves({"a": [(0, 1.0), (10, 3.0)], "none": [], "b": [(5, 2.0)]})
    assert drawn.count("<polyline") == 2 and drawn.count("<circle") == 1 and ">none<" not in drawn
    (line,) = re.findall(r'<polyline points="([^"]*)" fill="none" stroke="#5e35b1"', drawn)
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.split())
    assert x1 < x2 and y1 > y2  # later is to the right, more is up
    assert "Nothing yet" in curves({"a": []})
    assert "<svg" in curves({"a": [(0, 1.0)]})


def test_a_page_without_anything(tmp_path):
    assert "Nothing yet" in render_page(tmp_path, TuningSettings(), {})
