"""Thumbnails of image files, made on machines: reads the files here, sends their bytes, writes what comes back.

    python examples/thumbnails.py FOLDER --out thumbnails
    python examples/thumbnails.py                      # makes some sample images first

With FLY_API_TOKEN set it runs on Fly (the image needs Pillow), else on this computer.
"""

import argparse
import io
import os
import random
import sys
from concurrent.futures import as_completed
from pathlib import Path

from PIL import Image, ImageDraw, UnidentifiedImageError
from tqdm import tqdm

from flyexecutor import FlyMachineExecutor, SettingsError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif"}


def make_thumbnail(image: bytes, size: int) -> bytes:
    """Runs on a machine: an image file's bytes in, those of a JPEG that fits into `size` pixels out."""
    with Image.open(io.BytesIO(image)) as opened:
        opened.thumbnail((size, size))
        thumbnail = io.BytesIO()
        opened.convert("RGB").save(thumbnail, "JPEG", quality=85)
    return thumbnail.getvalue()


def make_samples(folder: Path, count: int = 48) -> None:
    """Draw some images, since the reader may have none at hand."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = random.Random(1)
    for n in range(count):
        image = Image.new("RGB", (1600, 1200), tuple(dice.randrange(256) for _ in range(3)))
        draw = ImageDraw.Draw(image)
        for _ in range(60):
            x, y, r = dice.randrange(1600), dice.randrange(1200), dice.randrange(20, 300)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(dice.randrange(256) for _ in range(3)))
        image.save(folder / f"sample-{n:02}.jpg", quality=90)


def main() -> int:
    """Make the thumbnails; the exit code is 1 if any could not be made."""
    parser = argparse.ArgumentParser(description="Make thumbnails of image files on machines.")
    parser.add_argument("folder", type=Path, nargs="?", help="where the images are; none: samples are made")
    parser.add_argument(
        "--out", type=Path, default=Path("thumbnails"), help="where thumbnails go (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=200, help="pixels of the longer side (default: %(default)s)")
    parser.add_argument("--max-workers", type=int, default=4, help="machines at a time (default: %(default)s)")
    options = parser.parse_args()
    folder = options.folder or options.out / "samples"
    if options.folder is None:
        make_samples(folder)
    elif not folder.is_dir():
        print(f"{folder} is not a folder", file=sys.stderr)
        return 1
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    options.out.mkdir(parents=True, exist_ok=True)
    local = True if "FLY_API_TOKEN" not in os.environ else None
    failed = 0
    try:
        executor = FlyMachineExecutor(local=local, max_workers=options.max_workers)
    except SettingsError as exc:
        print(exc, file=sys.stderr)
        return 1
    with executor:
        futures = {executor.submit(make_thumbnail, path.read_bytes(), options.size): path for path in files}
        for future in tqdm(as_completed(futures), total=len(futures), unit="image"):
            path = futures[future]
            try:
                (options.out / path.with_suffix(".jpg").name).write_bytes(future.result())
            except UnidentifiedImageError:
                failed += 1
                tqdm.write(f"{path} is not an image that Pillow can read", file=sys.stderr)
    print(f"{len(files) - failed} thumbnails in {options.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
