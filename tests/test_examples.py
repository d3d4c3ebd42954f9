"""Every example runs, as its docstring says."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*arguments):
    command = [sys.executable, EXAMPLES / "thumbnails.py", *arguments]
    environ = {name: value for name, value in os.environ.items() if name != "FLY_API_TOKEN"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)


def look(path):
    with Image.open(path) as image:
        return image.format, image.size


def test_thumbnails_are_made_of_real_files_and_bad_ones_do_not_cost_the_others(tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    Image.new("RGB", (800, 400), "teal").save(images / "a.jpg")
    Image.new("RGBA", (800, 400), "teal").save(images / "a.png")
    Image.new("RGB", (300, 600), "teal").save(images / "c.webp")
    (images / "broken.jpg").write_bytes(b"not an image")
    (images / "cut.jpg").write_bytes((images / "a.jpg").read_bytes()[:1000])
    (images / "gone.jpg").symlink_to(tmp_path / "nowhere")
    ran = run(images, "--out", out, "--size", "100", "--max-workers", "2")
    assert ran.returncode == 1, ran.stderr
    assert ran.stdout == f"3 thumbnails in {out}\n"
    assert "5/5" in ran.stderr  # the progress bar: of those that could be read
    broken, cut, gone = ran.stderr.splitlines()[-3:]  # in the order of the files
    assert broken == f"{images / 'broken.jpg'}: not an image that Pillow can read"
    assert cut.startswith(f"{images / 'cut.jpg'}: OSError: ")
    assert gone == f"{images / 'gone.jpg'}: No such file or directory"
    assert {path.name: look(path) for path in out.iterdir()} == {
        "a.jpg": ("JPEG", (100, 50)),
        "a.png.jpg": ("JPEG", (100, 50)),
        "c.webp.jpg": ("JPEG", (50, 100)),
    }


def test_without_a_folder_samples_are_drawn_first(tmp_path):
    ran = run("--out", tmp_path, "--local", "--max-workers", "2")
    assert (ran.returncode, ran.stdout) == (0, f"36 thumbnails in {tmp_path}\n"), ran.stderr
    assert [look(path) for path in sorted(tmp_path.iterdir())] == [("JPEG", (200, 150))] * 36


def test_a_folder_that_is_not_there_is_told_in_the_last_line(tmp_path):
    ran = run(tmp_path / "nowhere")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.endswith(f"error: {tmp_path / 'nowhere'} is not a folder\n")


def test_the_images_are_not_overwritten(tmp_path):
    image = tmp_path / "a.jpg"
    Image.new("RGB", (800, 400)).save(image)
    ran = run(tmp_path, "--out", tmp_path)
    assert (ran.returncode, look(image)) == (2, ("JPEG", (800, 400)))
    assert ran.stderr.endswith("error: --out is the folder of the images: they would be overwritten\n")
