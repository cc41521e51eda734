"""One small scene written in every format that is read, for tests."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fieldforge.renderers.cameras.paths import orbit

WIDTH, HEIGHT, FOCAL = 12, 10, 11.0
N = 9


def poses() -> np.ndarray:
    """(N, 4, 4) cameras on a half circle of radius 4 that look at the origin, OpenGL axes, world z up."""
    made = np.tile(np.eye(4), (N, 1, 1))
    for i in range(N):
        angle = np.pi * i / N
        place = 4 * np.array([np.cos(angle), np.sin(angle), 0.5])
        back = place / np.linalg.norm(place)
        right = np.cross([0, 0, 1.0], back)
        right /= np.linalg.norm(right)
        made[i, :3] = np.stack([right, np.cross(back, right), back, place], 1)
    return made


def pictures(n_channels: int = 3) -> np.ndarray:
    """(N, HEIGHT, WIDTH, n_channels) uint8 noise."""
    return np.random.default_rng(3).integers(0, 256, (N, HEIGHT, WIDTH, n_channels), dtype=np.uint8)


def write_photos(folder: Path, n_channels: int = 3, suffix: str = ".png") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"p{i:02d}{suffix}" for i in range(N)]
    for name, picture in zip(names, pictures(n_channels), strict=True):
        Image.fromarray(picture).save(folder / name)
    return names


def frames(names: list[str], **more: Any) -> list[dict[str, Any]]:
    return [
        {"file_path": name, "transform_matrix": pose.tolist(), **more}
        for name, pose in zip(names, poses(), strict=True)
    ]


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def nerf_synthetic(folder: Path) -> Path:
    names = write_photos(folder / "all", 4)
    angle = 2 * np.arctan(WIDTH / 2 / FOCAL)
    listed = frames([f"./all/{name[:-4]}" for name in names])
    for split, part in (("train", listed[:6]), ("val", listed[6:7]), ("test", listed[7:])):
        write_json(folder / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": part})
    return folder


def instant_ngp(folder: Path, **more: Any) -> Path:
    names = write_photos(folder / "images")
    keys = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT, "aabb_scale": 2}
    write_json(folder / "transforms.json", {**keys, **more, "frames": frames([f"images/{name}" for name in names])})
    return folder


def nerfstudio(folder: Path) -> Path:
    names = [f"images/{name}" for name in write_photos(folder / "images")]
    own = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    content = {
        "camera_model": "OPENCV", "applied_transform": np.eye(4)[:3].tolist(), "frames": frames(names, **own),
        "train_filenames": names[:6], "val_filenames": names[6:7], "test_filenames": names[7:],
    }  # fmt: skip
    write_json(folder / "transforms.json", content)
    return folder


def llff(folder: Path) -> Path:
    write_photos(folder / "images_4")
    rows = []
    for pose in poses():
        right, up, back, place = pose[:3].T
        matrix = np.stack([-up, right, back, place, [HEIGHT * 4, WIDTH * 4, FOCAL * 4]], 1)
        rows.append([*matrix.reshape(-1), 2.0, 7.0])
    np.save(folder / "poses_bounds.npy", np.array(rows))
    return folder


def _world_to_camera(pose: np.ndarray) -> np.ndarray:
    return np.linalg.inv(pose @ np.diag([1.0, -1, -1, 1]))


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """Scalar first; of the eigenvector of Bar-Itzhack's matrix, which has no special cases."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = np.array(
        [[a - e - i, d + b, g + c, h - f], [d + b, e - a - i, h + f, c - g], [g + c, h + f, i - a - e, d - b],
         [h - f, c - g, d - b, a + e + i]]
    )  # fmt: skip
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z])


def colmap_text(folder: Path, model: str = f"PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} 6 5") -> Path:
    names = write_photos(folder / "images")
    place = folder / "sparse/0"
    place.mkdir(parents=True)
    (place / "cameras.txt").write_text(f"# cameras\n3 {model}\n")
    lines = ["# images"]
    for i, (name, pose) in enumerate(zip(names, poses(), strict=True)):
        back = _world_to_camera(pose)
        values = " ".join(repr(float(value)) for value in [*_quaternion(back[:3, :3]), *back[:3, 3]])
        lines += [f"{i + 1} {values} 3 {name}", "1.5 2.5 7 3.5 4.5 -1" if i else ""]
    (place / "images.txt").write_text("\n".join(lines) + "\n")
    (place / "points3D.txt").write_text("7 0.5 -0.25 0.125 10 20 30 0.7 2 0 3 1\n")
    return folder


def colmap_binary(folder: Path) -> Path:
    names = write_photos(folder / "images")
    place = folder / "sparse/0"
    place.mkdir(parents=True)
    camera = struct.pack("<QiiQQ4d", 1, 3, 1, WIDTH, HEIGHT, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
    (place / "cameras.bin").write_bytes(camera)
    images = struct.pack("<Q", N)
    for i, (name, pose) in enumerate(zip(names, poses(), strict=True)):
        back = _world_to_camera(pose)
        images += struct.pack("<I7dI", i + 1, *_quaternion(back[:3, :3]), *back[:3, 3], 3) + name.encode() + b"\0"
        images += struct.pack("<Q2dq2dq", 2, 1.5, 2.5, 7, 3.5, 4.5, -1)
    (place / "images.bin").write_bytes(images)
    points = struct.pack("<QQ3d3BdQ4I", 1, 7, 0.5, -0.25, 0.125, 10, 20, 30, 0.7, 2, 2, 0, 3, 1)
    (place / "points3D.bin").write_bytes(points)
    return folder


def dtu(folder: Path) -> Path:
    write_photos(folder / "image")
    inside = np.array(
        [[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]]
    )  # centres at whole numbers
    arrays = {}
    for i, pose in enumerate(poses()):
        matrix = np.eye(4)
        matrix[:3] = -2.5 * inside @ _world_to_camera(pose)[:3]  # any scale, any sign
        arrays[f"world_mat_{i}"] = matrix
        arrays[f"scale_mat_{i}"] = np.array([[2.0, 0, 0, 0.5], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    np.savez(folder / "cameras_sphere.npz", **arrays)
    return folder


def arrays(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "tiny.npz", images=pictures(), poses=poses().astype(np.float32), focal=np.float64(FOCAL))
    return folder / "tiny.npz"


WRITERS = {
    "NeRF-synthetic": nerf_synthetic, "instant-ngp": instant_ngp, "nerfstudio": nerfstudio, "LLFF": llff,
    "COLMAP: sparse/0/images.txt": colmap_text, "COLMAP: sparse/0/images.bin": colmap_binary, "DTU/NeuS": dtu,
    "tiny_nerf": arrays,
}  # fmt: skip


BALL_RADIUS, BALL_DISTANCE, BALL_SIDE, BALL_FOCAL = 0.7, 3.0, 24, 28.0


def ball(path: Path) -> Path:
    """Sixteen photos with alpha of a ball whose colours are its normals; every eighth is held out."""
    generator = torch.Generator().manual_seed(0)
    circle: dict[str, Any] = {
        "distance": BALL_DISTANCE, "up": torch.tensor([0.0, 0.0, 1.0]), "n_frames": 16, "width": BALL_SIDE,
        "height": BALL_SIDE, "focal": BALL_FOCAL,
    }  # fmt: skip
    cameras = orbit(torch.zeros(3), elevation=0.0, **circle)
    tilts = [float(120 * torch.rand((), generator=generator) - 60) for _ in range(16)]
    tilted = [orbit(torch.zeros(3), elevation=tilt, **circle).poses[i] for i, tilt in enumerate(tilts)]
    poses = torch.eye(4).repeat(16, 1, 1)
    poses[:, :3] = torch.stack(tilted)
    pictures = np.zeros((16, BALL_SIDE, BALL_SIDE, 4), np.uint8)
    for view in range(16):
        moved = type(cameras)(poses[:, :3], cameras.intrinsics, cameras.sizes)
        origins, directions = moved.picture_rays(view)
        nearest = -(origins * directions).sum(-1)
        under = BALL_RADIUS**2 - (origins.square().sum(-1) - nearest**2)
        place = origins + (nearest - under.clamp(min=0).sqrt())[:, None] * directions
        color = torch.cat([0.5 + 0.5 * place / BALL_RADIUS, torch.ones(len(place), 1)], -1) * (under > 0)[:, None]
        pictures[view] = (color * 255).round().to(torch.uint8).view(BALL_SIDE, BALL_SIDE, 4).numpy()
    np.savez_compressed(path, images=pictures, poses=poses.numpy(), focal=BALL_FOCAL)
    return path
