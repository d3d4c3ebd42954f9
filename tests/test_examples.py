"""Every example runs, as its docstring says."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*arguments):
    command = [sys.executable, EXAMPLES / "thumbnails.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_thumbnails_are_made_of_real_files_and_a_bad_one_does_not_cost_the_others(tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for n, name in enumerate(("a.jpg", "b.png", "c.webp")):
        Image.new("RGB", (800, 400 + n), "teal").save(images / name)
    (images / "broken.jpg").write_bytes(b"not an image")
    ran = run(images, "--out", out, "--size", "100", "--max-workers", "2")
    assert ran.returncode == 1
    assert "broken.jpg is not an image" in ran.stderr
    assert "4/4" in ran.stderr  # the progress bar
    assert ran.stdout == f"3 thumbnails in {out}\n"
    for name in "abc":
        with Image.open(out / f"{name}.jpg") as thumbnail:
            assert (thumbnail.format, thumbnail.size) == ("JPEG", (100, 50))


def test_a_folder_that_is_not_there_is_told(tmp_path):
    ran = run(tmp_path / "nowhere")
    assert (ran.returncode, ran.stderr) == (1, f"{tmp_path / 'nowhere'} is not a folder\n")
