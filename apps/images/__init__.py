"""Read and write pictures: PNG, JPEG, WebP, TIFF, OpenEXR, Radiance HDR, and what Pillow knows of GIF and BMP.

    picture = read_image("photo.png")                    # uint8, uint16 or float32, as the file stores it
    write_image("copy.exr", picture.rows(0, picture.height), color_space=picture.color_space)

A file is known by its content, not by its suffix. Sizes are read from headers before memory is taken: a small file
never makes a big picture. Whatever is wrong with a file is an `ImageError` of one sentence.
"""

from fieldforge.apps.images.color import linear_to_srgb, srgb_to_linear
from fieldforge.apps.images.picture import ImageError, Picture
from fieldforge.apps.images.read import read_image
from fieldforge.apps.images.write import ImageWriter, write_image

__all__ = ["ImageError", "ImageWriter", "Picture", "linear_to_srgb", "read_image", "srgb_to_linear", "write_image"]
