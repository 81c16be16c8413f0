"""run.json: the record of a run, with one reader and one writer.

The file may have been changed or damaged, so the reader keeps values of the expected type and leaves out the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from htc.runs.json_values import items, mapping, number, text, whole_number

STATUSES = ("queued", "running", "preempted", "failed", "done")


@dataclass
class Resume:
    """One continuation of a run after it had stopped."""

    time: str | None
    step: int | None
    host: str | None
    slurm_job_id: str | None

    @classmethod
    def from_json(cls, value: Any) -> Resume:
        found = mapping(value)
        return cls(
            text(found.get("time")), whole_number(found.get("step")), text(found.get("host")),
            text(found.get("slurm_job_id")),
        )  # fmt: skip


@dataclass
class Failure:
    """One failure of a launched run."""

    time: str | None
    cause: str | None
    step: int | None
    """Step of the newest checkpoint; None if there was none."""
    submission: str | None
    job: str | None
    """Slurm's job id."""

    @classmethod
    def from_json(cls, value: Any) -> Failure:
        found = mapping(value)
        return cls(
            text(found.get("time")), text(found.get("cause")), whole_number(found.get("step")),
            text(found.get("submission")), text(found.get("job")),
        )  # fmt: skip


@dataclass
class Length:
    """The configured length of a run."""

    epochs: int | None
    iterations: int | None
    batch_size: int | None

    @classmethod
    def from_json(cls, value: Any) -> Length:
        """Read the length from run.json, or from the section `schedule` of config.yaml."""
        found = mapping(value)
        return cls(*(whole_number(found.get(item.name)) for item in fields(cls)))


@dataclass
class Launch:
    """How a run was launched; None in RunRecord for a run that was started by hand."""

    submission: str | None
    """Id of the newest submission that contains the run."""
    launcher: str | None
    submitted: str | None
    """Time of the submission."""
    code: str | None
    """Root of the copy of the code that the run's jobs use."""
    length: Length
    failures: list[Failure] = field(default_factory=list)
    cancelled: str | None = None
    """Time at which a user cancelled the run; None if it has not been cancelled since the submission."""

    @classmethod
    def from_json(cls, value: Any) -> Launch | None:
        if not isinstance(value, dict):
            return None
        return cls(
            submission=text(value.get("submission")),
            launcher=text(value.get("launcher")),
            submitted=text(value.get("submitted")),
            code=text(value.get("code")),
            length=Length.from_json(value.get("length")),
            failures=[Failure.from_json(each) for each in items(value.get("failures"))],
            cancelled=text(value.get("cancelled")),
        )


@dataclass
class SplitFingerprint:
    """The content of one split of a data set."""

    annotations: str | None = None
    """SHA-256 of the annotation file."""
    images: int | None = None
    """Number of images that are used."""
    files: str | None = None
    """Hash of the names and sizes of at most 1,000 of the image files, evenly spaced."""
    stuff: str | None = None
    """The same for the stuff maps; None where they are not used."""

    @classmethod
    def from_json(cls, value: Any) -> SplitFingerprint | None:
        if not isinstance(value, dict):
            return None
        return cls(
            text(value.get("annotations")), whole_number(value.get("images")), text(value.get("files")),
            text(value.get("stuff")),
        )  # fmt: skip

    def difference(self, other: SplitFingerprint) -> str | None:
        """Return what differs from another content, in words; None where they are equal as far as is known."""
        for name, words in (
            ("annotations", "the annotation file"),
            ("images", "the number of images"),
            ("files", "the image files"),
            ("stuff", "the stuff maps"),
        ):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours is not None and theirs is not None and ours != theirs:
                return words
        return None


@dataclass
class Training:
    """What the training of a run took; None for values that are not known."""

    parameters: int | None = None
    training_seconds: float | None = None
    iterations: int | None = None
    processes: int | None = None
    peak_memory_mb: float | None = None
    overflows: int | None = None
    """Steps that fp16 skipped."""

    @classmethod
    def from_json(cls, value: Any) -> Training | None:
        if not isinstance(value, dict):
            return None
        return cls(**{item.name: number(value.get(item.name)) for item in fields(cls)})  # type: ignore[arg-type]


@dataclass
class Parent:
    """The run that this one continues."""

    run: str
    """Name of its folder."""
    signature: str
    step: int | None
    """Step after which this run continues."""
    settings: str
    """Hash of its settings without the seed: equal for runs that differ in the seed only."""
    unequal: list[str] = field(default_factory=list)
    """What makes the two together differ from one long run, in words; empty where they are equal to the last bit."""

    @classmethod
    def from_json(cls, value: Any) -> Parent | None:
        found = mapping(value)
        name, signature, settings = (text(found.get(key)) or "" for key in ("run", "signature", "settings"))
        unequal = [each for each in items(found.get("unequal")) if isinstance(each, str)]
        return cls(name, signature, whole_number(found.get("step")), settings, unequal) if name else None


@dataclass
class WandbRun:
    """The run at wandb."""

    id: str
    """A random id: two people may run one configuration."""
    earlier: list[str] = field(default_factory=list)
    """Ids of runs that were deleted on the server."""

    @classmethod
    def from_json(cls, value: Any) -> WandbRun | None:
        found = mapping(value)
        name = text(found.get("id"))
        return None if not name else cls(name, [each for each in items(found.get("earlier")) if isinstance(each, str)])


@dataclass
class RunRecord:
    """The content of run.json; None stands for a value that is not known, or not known yet."""

    name: str | None = None
    signature: str | None = None
    status: str | None = None
    """One of STATUSES."""
    error: str | None = None
    """Why the run failed."""
    start: str | None = None
    """Time of the first start, ISO 8601 in UTC."""
    end: str | None = None
    command: str | None = None
    host: str | None = None
    devices: list[Any] = field(default_factory=list)
    versions: dict[str, Any] = field(default_factory=dict)
    git: dict[str, Any] | None = None
    slurm_job_ids: list[Any] = field(default_factory=list)
    identity: dict[str, Any] = field(default_factory=dict)
    """What the signature is a hash of: by dotted key, the settings that differ from the defaults."""
    data: dict[str, SplitFingerprint] = field(default_factory=dict)
    """Content of the splits `train` and `val`."""
    evaluated_data: dict[str, Any] = field(default_factory=dict)
    """The settings that name the data of the run's own evaluations, by dotted key."""
    parent: Parent | None = None
    """The run that this one continues; None for a run that starts from initial weights."""
    wandb: WandbRun | None = None
    """None until the run is tracked."""
    training: Training | None = None
    """What the training took; None until it has ended."""
    resumes: list[Resume] = field(default_factory=list)
    launch: Launch | None = None
    other: dict[str, Any] = field(default_factory=dict)
    """Keys that this version does not know: they are kept."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunRecord:
        """Return the record that a JSON object holds."""
        words = ("name", "signature", "status", "error", "start", "end", "command", "host")
        known = {item.name for item in fields(cls)} - {"other"}
        git = content.get("git")
        return cls(
            **{key: text(content.get(key)) for key in words},
            devices=items(content.get("devices")),
            versions=mapping(content.get("versions")),
            git=git if isinstance(git, dict) else None,
            slurm_job_ids=items(content.get("slurm_job_ids")),
            identity=mapping(content.get("identity")),
            data={
                split: found
                for split, value in mapping(content.get("data")).items()
                if (found := SplitFingerprint.from_json(value)) is not None
            },
            evaluated_data=mapping(content.get("evaluated_data")),
            parent=Parent.from_json(content.get("parent")),
            wandb=WandbRun.from_json(content.get("wandb")),
            training=Training.from_json(content.get("training")),
            resumes=[Resume.from_json(each) for each in items(content.get("resumes"))],
            launch=Launch.from_json(content.get("launch")),
            other={key: value for key, value in content.items() if key not in known},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of this record."""
        content = asdict(self)
        other = content.pop("other")
        return content | other

    @property
    def cancelled(self) -> bool:
        """Whether a user cancelled the run."""
        return self.launch is not None and self.launch.cancelled is not None
