from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from corolla.data.image_decoding import UnreadableImagesError, decode_files


def decode(path: Path, resolution: int, channels: int = 3) -> NDArray[np.uint8]:
    pixels, unreadable = decode_files([str(path)], resolution=resolution, channels=channels)
    assert unreadable == {}
    assert pixels.shape == (1, channels, resolution, resolution)
    assert pixels.flags.c_contiguous
    return pixels[0]


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tif", "ppm"])
def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path: Path, suffix: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(colours).save(path, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(decode(path, 4), colours.transpose(2, 0, 1))


def test_the_central_square_is_scaled(tmp_path: Path) -> None:
    # 8 wide, 4 high: columns 0-1 and 6-7 are cut off, 2-5 stay and become 2 columns of 2 pixels
    columns = np.array([255, 255, 10, 10, 30, 30, 255, 255], np.uint8)
    Image.fromarray(np.tile(columns, (4, 1))).save(tmp_path / "wide.png")
    Image.fromarray(np.tile(columns, (4, 1)).T.copy()).save(tmp_path / "high.png")
    wide = decode(tmp_path / "wide.png", 4, channels=1)[0]
    np.testing.assert_array_equal(wide, np.tile([10, 10, 30, 30], (4, 1)))
    np.testing.assert_array_equal(decode(tmp_path / "high.png", 4, channels=1)[0], wide.T)
    # At half the size the triangle filter is 4 pixels wide: 10, 10, 30 weigh 3/4, 3/4, 1/4, and
    # what was cut off nothing: (7.5 + 7.5 + 7.5) / 1.75 = 12.86; likewise 47.5 / 1.75 = 27.14.
    small = decode(tmp_path / "wide.png", 2, channels=1)[0]
    np.testing.assert_array_equal(small, [[13, 27], [13, 27]])


def test_gray_is_repeated_and_colour_weighed(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 7).save(tmp_path / "gray.png")
    assert (decode(tmp_path / "gray.png", 4) == 7).all()
    Image.new("RGB", (4, 4), (100, 0, 0)).save(tmp_path / "red.png")
    assert (decode(tmp_path / "red.png", 4, channels=1) == 30).all()  # 0.299 * 100


def test_other_pixel_formats(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (1, 2, 3, 128)).save(tmp_path / "alpha.png")
    assert decode(tmp_path / "alpha.png", 4)[:, 0, 0].tolist() == [1, 2, 3]
    Image.new("P", (4, 4), 0).save(tmp_path / "palette.gif")
    assert decode(tmp_path / "palette.gif", 4).shape == (3, 4, 4)
    deep = np.full((4, 4), 0x1234, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (decode(tmp_path / "deep.png", 4, channels=1) == 0x12).all()  # not clipped at 255


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    sideways = np.zeros((4, 4, 3), np.uint8)
    sideways[0] = 200  # bright on top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: bright on the right
    Image.fromarray(sideways).save(tmp_path / "photo.png", exif=exif)
    upright = decode(tmp_path / "photo.png", 4)
    assert (upright[:, :, 3] == 200).all()
    assert (upright[:, :, :3] == 0).all()
    scaled = decode(tmp_path / "photo.png", 2)
    assert (scaled[:, :, 1] > 50).all()
    assert (scaled[:, :, 0] == 0).all()


def test_a_large_photo_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (640, 480), (200, 100, 50)).save(tmp_path / "large.jpg", quality=95)
    colour = decode(tmp_path / "large.jpg", 16).reshape(3, -1).mean(1)
    np.testing.assert_allclose(colour, [200, 100, 50], atol=2)


def test_damaged_images_are_told_by_position_and_the_rest_is_decoded(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "good.png")
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    (tmp_path / "text.png").write_text("not an image")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    names = ["text.png", "good.png", "cut.jpg", "gone.png", "float.tif"]
    for threads in (1, 2):
        pixels, unreadable = decode_files(
            [str(tmp_path / name) for name in names], resolution=4, channels=3, threads=threads
        )
        assert list(unreadable) == [0, 2, 3, 4]
        assert unreadable[0] == "cannot identify image file 'text.png'"
        assert "truncated" in unreadable[2]
        assert "No such file" in unreadable[3]
        assert unreadable[4].startswith("pixels of mode 'F'")
        assert (pixels[1] == 9).all()


def test_twenty_unreadable_images_are_named_and_the_rest_counted() -> None:
    error = UnreadableImagesError("dataset.root", [(f"{n}.png", "cut") for n in range(33)])
    lines = str(error).splitlines()
    assert len(lines) == 21
    assert lines[0] == (
        "dataset.root='0.png': image cannot be decoded (cut). "
        "Replace the file or move it out of the folder"
    )
    assert lines[-1].startswith("dataset.root=13: as many more images cannot be decoded")
