"""What distinguishes one motion module from another: the published versions, and switches that weights do not show."""

from dataclasses import dataclass, replace

KINDS = ("transformer", "conv")


@dataclass(frozen=True)
class MotionConfig:
    """What distinguishes one motion module from another. The defaults are the official v3.

    ``v1()``, ``v2()`` and ``v3()`` are the published versions; ``dataclasses.replace`` makes any other.
    No weight shape reveals the two norm switches: they are part of a version's meaning.
    """

    num_positions: int = 32  # rows of the position table = most frames in a clip
    mid_block: bool = False  # a module in the middle of the UNet too (v2)
    num_heads: int = 8
    num_attentions: int = 2  # temporal self-attentions in a block
    norm_groups: int = 32  # of the GroupNorm at the entry
    positions: bool = True  # False: attention cannot tell the order of frames
    zero_init: bool = True  # the out-projection starts at zero, so a fresh module is the identity
    motion_norm_over_frames: bool = False  # True: entry GroupNorm pools a clip's frames, as diffusers does
    resnet_norm_over_frames: bool = False  # True: the UNet's ResNet and output GroupNorms pool a clip's frames (v1)
    kind: str = "transformer"  # "conv": a convolution over frames in place of each attention (the paper's ablation)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a motion module is of the kind {' or '.join(map(repr, KINDS))}, got {self.kind!r}")

    @classmethod
    def v1(cls) -> "MotionConfig":
        return cls(num_positions=24, resnet_norm_over_frames=True)

    @classmethod
    def v2(cls) -> "MotionConfig":
        return cls(mid_block=True)

    @classmethod
    def v3(cls) -> "MotionConfig":
        return cls()

    def diffusers(self) -> "MotionConfig":
        """The same module under the norms of diffusers' ``UNetMotionModel``: other outputs from the same weights."""
        return replace(self, motion_norm_over_frames=True, resnet_norm_over_frames=False)

    @property
    def max_frames(self) -> int | None:
        """Most frames in a clip: the rows of the position table. None without one: convolutions take any number."""
        return self.num_positions if self.positions and self.kind == "transformer" else None

    @property
    def version(self) -> str:
        """The published version that this is most like: a mid block marks v2; 24 positions or pooled ResNet norms mark v1."""
        if self.mid_block:
            return "v2"
        return "v1" if self.num_positions == 24 or self.resnet_norm_over_frames else "v3"

    @property
    def norms(self) -> str:
        """In words, over what the GroupNorms take their statistics."""
        pooled = [
            where
            for where, over_frames in (
                ("the UNet's ResNet norms", self.resnet_norm_over_frames),
                ("the motion module's entry norm", self.motion_norm_over_frames),
            )
            if over_frames
        ]
        return f"{' and '.join(pooled)} pooled over frames" if pooled else "each over one frame"
