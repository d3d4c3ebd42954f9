"""Thumbnails of image files, made on machines: reads the files here, sends their bytes, writes what comes back.

    python examples/thumbnails.py FOLDER --out thumbnails
    python examples/thumbnails.py                      # of some sample images that it draws first

With FLY_API_TOKEN set it runs on Fly (the image needs Pillow), else, or with --local, on this computer.
"""

import argparse
import io
import os
import random
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import as_completed
from pathlib import Path

from PIL import Image, ImageDraw, UnidentifiedImageError
from tqdm import tqdm

from flyexecutor import FlyFuture, FlyMachineExecutor, SettingsError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif"}


def make_thumbnail(image: bytes, size: int) -> bytes:
    """Runs on a machine: an image file's bytes in, those of a JPEG that fits into `size` pixels out."""
    with Image.open(io.BytesIO(image)) as opened:
        opened.thumbnail((size, size))
        thumbnail = io.BytesIO()
        opened.convert("RGB").save(thumbnail, "JPEG", quality=85)
    return thumbnail.getvalue()


def make_thumbnails(executor: FlyMachineExecutor, paths: Iterable[Path], out: Path, size: int) -> dict[Path, str]:
    """Write a thumbnail of each file into `out`. Answers what was wrong with those that have none."""
    problems: dict[Path, str] = {}
    futures: dict[FlyFuture[bytes], Path] = {}
    for path in paths:
        try:
            image = path.read_bytes()  # here: a machine can't see this disk
        except OSError as exc:
            problems[path] = exc.strerror or str(exc)
        else:
            futures[executor.submit(make_thumbnail, image, size)] = path
    for future in tqdm(as_completed(futures), total=len(futures), unit="image"):
        path = futures[future]
        error = future.exception()
        if error is None:
            (out / thumbnail_name(path)).write_bytes(future.result())
        elif isinstance(error, UnidentifiedImageError):
            problems[path] = "not an image that Pillow can read"
        else:
            problems[path] = f"{type(error).__name__}: {error}"
    return problems


def thumbnail_name(path: Path) -> str:
    """a.jpg for a.jpg, a.png.jpg for a.png: two images never have the same."""
    return path.name if path.suffix.lower() in {".jpg", ".jpeg"} else f"{path.name}.jpg"


def draw_samples(folder: Path, count: int = 36) -> None:
    """Draw some images, since the reader may have none at hand."""
    dice = random.Random(1)
    for n in range(count):
        image = Image.new("RGB", (1600, 1200), tuple(dice.randrange(256) for _ in range(3)))
        draw = ImageDraw.Draw(image)
        for _ in range(60):
            x, y, r = dice.randrange(1600), dice.randrange(1200), dice.randrange(20, 300)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(dice.randrange(256) for _ in range(3)))
        image.save(folder / f"sample-{n:02}.jpg", quality=90)


def read_options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Make thumbnails of image files on machines.")
    parser.add_argument("folder", type=Path, nargs="?", help="where the images are; none: samples are drawn")
    parser.add_argument("--out", type=Path, default=Path("thumbnails"), help="where they go (default: %(default)s)")
    parser.add_argument("--size", type=int, default=200, help="pixels of the longer side (default: %(default)s)")
    parser.add_argument("--max-workers", type=int, default=4, help="machines at a time (default: %(default)s)")
    parser.add_argument(
        "--local",
        action=argparse.BooleanOptionalAction,
        default="FLY_API_TOKEN" not in os.environ,
        help="run on this computer (default: if FLY_API_TOKEN is not set)",
    )
    options = parser.parse_args()
    if options.folder and not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    if options.folder and options.out.resolve() == options.folder.resolve():
        parser.error("--out is the folder of the images: they would be overwritten")
    return options


def main() -> int:
    """Make the thumbnails; the exit code is 1 if any could not be made."""
    options = read_options()
    with tempfile.TemporaryDirectory() as samples:
        folder = options.folder or Path(samples)
        if not options.folder:
            draw_samples(folder)
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        options.out.mkdir(parents=True, exist_ok=True)
        try:
            executor = FlyMachineExecutor(local=options.local, max_workers=options.max_workers)
        except SettingsError as exc:
            print(exc, file=sys.stderr)
            return 1
        with executor:
            problems = make_thumbnails(executor, paths, options.out, options.size)
    for path in paths:
        if path in problems:
            print(f"{path}: {problems[path]}", file=sys.stderr)
    print(f"{len(paths) - len(problems)} thumbnails in {options.out}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
