"""Turn a field into another.

result = convert("lego.field", to="mlp", output="small.field", max_bytes=1_000_000)
result.field, result.figure("teacher_psnr")
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, Unpack

from fieldforge.apps.convert.size import fitting
from fieldforge.apps.convert.students import Student, student
from fieldforge.apps.convert.teacher import Teacher, load_teacher
from fieldforge.apps.fit.config import apply_overrides
from fieldforge.apps.fit.job import Fit, Job, Plan, PlanKeywords
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.scenes import Scene
from fieldforge.checks import with_article
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import ConfigError

F = TypeVar("F", bound=Field)
HISTORY_BYTES = 64 * 200
"""What the rows of a history take at most in a header."""


@dataclass(kw_only=True)
class Conversion(Fit[Field]):
    """What a conversion came to.

    Attributes:
        teacher: what was converted.
        to: the student's name.
    """

    teacher: Teacher
    to: str


def convert(
    source: str | Path | Field | Teacher,
    to: str,
    *,
    photos: str | Path | Scene | None = None,
    box: tuple[float, ...] | str | None = None,
    head: str = "teacher",
    force: bool = False,
    target: float | None = None,
    **plan: Unpack[PlanKeywords],
) -> Conversion:
    """Turn a field into another that answers alike.

    Args:
        source: a ``.field`` file of a picture, a shape or a scene; or the field itself.
        to: "mlp", "hashgrid", ...: see `fieldforge.apps.convert.students`.
        photos: of a scene, its posed photos: the last steps learn from them, and quality is told against them too.
        box: of a scene, the student's: six numbers, the lowest corner first; "content": around what the teacher holds;
            "teacher": the teacher's; None: the content's for kilonerf, whose cells are all it has, else the teacher's.
        head: of a scene, "teacher": a student with the same kind of colour network takes over the teacher's, and as
            many features; "own": that of its preset, untrained.
        force: photos other than those that the teacher was fitted to.
        target: stop as soon as the student is that near to its teacher: decibels, of a shape volume IoU.
        plan: output, steps, seconds, max_bytes, ...: see `fieldforge.apps.fit.job.Plan`; not `preset`.

    Returns:
        The result. If a signal stopped it, `state.stopped_by` is 'signal', and with an `output` the state is saved
        beside it, no field is written, and nothing was measured.

    Raises:
        FieldFileError, SceneError: the field or the photos cannot be read.
        ConfigError, ValueError: options or configuration; no such student; a box that misses the scene.
        BackendError: the backend asked for cannot run.
    """
    job = conversion_of(source, to, photos=photos, box=box, head=head, force=force)
    result: Conversion = job.run(Plan(**plan), target)
    return result


def conversion_of(
    source: str | Path | Field | Teacher,
    to: str,
    *,
    photos: str | Path | Scene | None = None,
    box: tuple[float, ...] | str | None = None,
    head: str = "teacher",
    force: bool = False,
    command: str = "",
) -> ConversionJob[Any]:
    """The job of a conversion; arguments as for `convert`, and the command that asked for it, for the file's header."""
    teacher = load_teacher(source)
    kind, chosen = teacher.kind, student(teacher.kind, to, teacher=teacher.name)
    if kind == "scene":
        from fieldforge.apps.convert.scene import SceneConversion

        return SceneConversion(teacher, to, chosen, photos=photos, box=box, head=head, force=force, command=command)
    for name, value in (("photos", photos), ("box", box)):
        if value is not None:
            raise ValueError(f"{name}: is of scenes, and {teacher.name} holds {with_article(kind)}")
    if kind == "image":
        from fieldforge.apps.convert.image import ImageConversion

        return ImageConversion(teacher, to, chosen, command=command)
    from fieldforge.apps.convert.shape import ShapeConversion

    return ShapeConversion(teacher, to, chosen, command=command)


class ConversionJob(Job[F]):
    """What conversions of all kinds share.

    Args:
        teacher: what is converted.
        to: the name of what it becomes.
        chosen: what that is.
        command: the words that asked for it.
    """

    asked = "target"

    def __init__(self, teacher: Teacher, to: str, chosen: Student, *, command: str = "") -> None:
        self.teacher, self.to, self.chosen, self.command = teacher, to, chosen, command

    @abstractmethod
    def ground(self, preset: str) -> Config:
        """The tables of a preset of the kind."""

    @property
    def digest(self) -> str | None:
        """Of what the teacher was fitted to, as far as its file tells."""
        found = self.teacher.signal().get("sha256")
        return found if isinstance(found, str) else None

    def identity(self) -> dict[str, Any]:
        return {"to": self.to, "parent": self.teacher.parent()}

    def provenance(self) -> dict[str, Any]:
        return {"command": self.command} if self.command else {}

    def metadata(self) -> dict[str, Any]:
        signal = self.teacher.signal()
        return {key: value for key, value in signal.items() if key not in ("kind", "sha256")}

    def preset(self, name: str) -> Config:
        """The student's tables; whatever a plan's preset is called, there is one."""
        ground = {**self.ground(self.chosen.preset), **self.chosen.sections}
        return apply_overrides(ground, self.chosen.overrides)

    def run_config(self, plan: Plan, tell: Callable[[str], None] = lambda text: None) -> tuple[Config, list[str]]:
        """As of any job; and small enough, by what makes this student smaller."""
        if plan.tune != "none":
            raise ConfigError(f"tune: {plan.tune} looks at a signal, and a conversion has a teacher instead")
        if plan.diagnose:
            raise ConfigError("diagnose: is of fits to signals; a conversion has none")
        config, notices = super().run_config(replace(plan, max_bytes=None), tell)
        if plan.max_bytes is None:
            return config, notices
        small, said = fitting(config, self.chosen.turns, self.file_bytes, plan.max_bytes)
        said = [f"made small enough for {plan.max_bytes:,} bytes: {one}" for one in said]
        return self.complete_small(small), [*notices, *said]

    def complete_small(self, config: Config) -> Config:
        """A configuration after it was made smaller; mostly itself."""
        return config

    def file_bytes(self, config: Config) -> float:
        """An upper bound on the size of the file of a configuration, header included."""
        header: Mapping[str, Any] = {"run": config, "signal": self.metadata(), "more": self.identity()}
        return self.stored_bytes(config) + 2 * len(json.dumps(header)) + len(self.command) + HISTORY_BYTES

    def result(self, **parts: Any) -> Any:
        return Conversion(teacher=self.teacher, to=self.to, **parts)
