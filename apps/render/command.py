"""``fieldforge render``: a field file in, a picture out, strip by strip."""

from __future__ import annotations

import argparse

import numpy as np
from rich.progress import track

from fieldforge.apps.cli import UsageError
from fieldforge.apps.fit.command import expect_another_file, expect_writable
from fieldforge.apps.images import ImageWriter
from fieldforge.apps.render.image import render_strips, view_of
from fieldforge.backends import use_backend
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.image import ImageField


def render_to_file(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    expect_writable(options.output)
    expect_another_file(options.output, options.field)
    field, _ = load_field(options.field)
    if not isinstance(field, ImageField):
        raise UsageError(f"{options.field}: is a {field.otype}, not an image field")
    view = view_of(field, size=options.size, scale=options.scale, crop=options.crop)
    width, height = view.size
    with use_backend(options.backend), ImageWriter(
        options.output, width=width, height=height, n_channels=field.n_channels, bits=options.bits,
        color_space=field.color_space,
    ) as writer:  # fmt: skip
        strips = render_strips(field, view)
        for strip in track(strips, "rendering", transient=True, disable=options.quiet) if not options.quiet else strips:
            writer.write(np.ascontiguousarray(strip))
    if not options.quiet:
        print(f"{options.output}: {width}x{height} pixels")
    return 0
