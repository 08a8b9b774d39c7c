"""The structs of plan.json, format 1: what a cascade folder says, without behaviour.

engines/README.md is the description in words; plan_check.py is what must hold between the parts.
A field with a default may be left out of the file. Shapes are lists of ints and symbols; within
a mode equal symbols are equal sizes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct, field

__all__ = [
    "FORMAT",
    "ChoiceParam",
    "DType",
    "Denoise",
    "Document",
    "Each",
    "Filter",
    "Final",
    "FloatParam",
    "GraphSpec",
    "Guidance",
    "IntParam",
    "Mode",
    "Noise",
    "Op",
    "Output",
    "Param",
    "Range",
    "Ref",
    "Renoise",
    "Row",
    "Run",
    "Sampler",
    "ScheduleSpec",
    "Shape",
    "Size",
    "Spacing",
    "Stage",
    "TensorSpec",
    "TextParam",
    "Tokenize",
    "TokenizerSpec",
    "Variance",
    "VideoParam",
    "Weight",
    "Window",
]

FORMAT = 1

DType = Literal["float32", "float16", "int64", "int32", "uint8", "bool"]
Sampler = Literal["ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m"]
Spacing = Literal["leading", "leading+1", "trailing", "linspace", "adm", "unclip"]
Final = Literal["one", "first"]
Variance = Literal["fixed_small", "fixed_small_log", "fixed_large", "learned_range"]
Filter = Literal["canny"]
Shape = tuple[int | str, ...]


class Node(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every struct of the format: immutable, named fields only, no unknown keys."""


class Ref(Node, frozen=True, kw_only=True):
    """`{"param": name}`: the value a user gave for that param."""

    param: str


class TensorSpec(Node, frozen=True, kw_only=True):
    """dtype and shape of a value or of a graph's input or output."""

    dtype: DType
    shape: Shape


class GraphSpec(Node, frozen=True, kw_only=True):
    """One ONNX file with its external weight files and its reference vectors.

    `precision` is that of its engine in every build; None leaves it to the build.
    `activations`: bytes inside it while it runs, the largest of some polynomials in its symbols;
    `activations_kernels`: the same with Edgereel's kernels for a CPU, where that is less.
    `flops` and `traffic`: arithmetic of a call and bytes it moves, a polynomial each.
    """

    file: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    weights: tuple[str, ...] = ()
    golden: str | None = None
    precision: Literal["fp32"] | None = None
    activations: tuple[dict[str, float], ...] = ()
    activations_kernels: tuple[dict[str, float], ...] = ()
    flops: dict[str, float] = {}
    traffic: dict[str, float] = {}


class ScheduleSpec(Node, frozen=True, kw_only=True):
    """An alphas_cumprod table: .npy, f64 [T], index = training timestep."""

    file: str


class TokenizerSpec(Node, frozen=True, kw_only=True):
    """A Hugging Face `tokenizers` JSON file; ids are cut and padded to `length` with `pad_id`."""

    file: str
    length: int
    pad_id: int


class TextParam(Node, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A text the user gives; without a default it must be given and must not be blank."""

    description: str = ""
    default: str | None = None
    aliases: tuple[str, ...] = ()


class IntParam(Node, frozen=True, kw_only=True, tag_field="type", tag="int"):
    """A multiple of `multiple`; `min` and `max` are included in the range."""

    description: str = ""
    default: int | None = None
    min: int | None = None
    max: int | None = None
    multiple: int = 1
    aliases: tuple[str, ...] = ()


class FloatParam(Node, frozen=True, kw_only=True, tag_field="type", tag="float"):
    """A finite number; `min` and `max` are included in the range."""

    description: str = ""
    default: float | None = None
    min: float | None = None
    max: float | None = None
    aliases: tuple[str, ...] = ()


class ChoiceParam(Node, frozen=True, kw_only=True, tag_field="type", tag="choice"):
    """One of a list of words."""

    choices: tuple[str, ...]
    description: str = ""
    default: str | None = None
    aliases: tuple[str, ...] = ()


class VideoParam(Node, frozen=True, kw_only=True, tag_field="type", tag="video"):
    """Frames the user gives, always required: the value of its name, u8 [F, H, W, 3].

    The seconds from `start` to `end`, at `fps`, the first `frames` of them, or the `last`, scaled
    to `longest`, or to cover `height` and `width` and cut to that around the middle, then `filter`;
    None leaves them as they are, and so does a param of 0 for end, fps or frames. A number of 1 for
    `frames` asks for a picture, not a video.
    """

    default: ClassVar[None] = None
    description: str = ""
    aliases: tuple[str, ...] = ()
    start: float | Ref | None = None
    end: float | Ref | None = None
    fps: float | Ref | None = None
    frames: int | Ref | None = None
    last: bool = False
    longest: int | Ref | None = None
    multiple: int = 1
    height: int | Ref | None = None
    width: int | Ref | None = None
    filter: Filter | None = None


Param = TextParam | IntParam | FloatParam | ChoiceParam | VideoParam


class Size(Node, frozen=True, kw_only=True):
    """The size of a symbol, (n * times + plus) / divide, which must go even.

    n is an int param, or the size of another symbol, such as a window's.
    """

    param: str | None = None
    symbol: str | None = None
    times: int = 1
    plus: int = 0
    divide: int = 1


class Row(Node, frozen=True, kw_only=True):
    """One text of a guidance batch: a text param (plus a fixed ending), or a fixed text."""

    param: str | None = None
    append: str = ""
    text: str | None = None


class Tokenize(Node, frozen=True, kw_only=True, tag_field="op", tag="tokenize"):
    """Texts to ids i64 [G, L]; mask f32|i64 [G, L], 1 = token; row i64 [G], its declared index."""

    tokenizer: str
    rows: str
    ids: str
    mask: str | None = None
    row: str | None = None


class Noise(Node, frozen=True, kw_only=True, tag_field="op", tag="noise"):
    """A standard normal draw named after `value`; shared = the same for each index of axis 0.

    A param that says whether is an int, and 0 is no.
    """

    value: str
    shared: bool | Ref = False


class Run(Node, frozen=True, kw_only=True, tag_field="op", tag="run"):
    """One call of a graph; both mappings go from the graph's name to the value's name."""

    graph: str
    inputs: dict[str, str]
    outputs: dict[str, str]


class Weight(Node, frozen=True, kw_only=True):
    """A guidance weight, const + sum(factor * param)."""

    const: float = 0.0
    params: dict[str, float] = {}


class Guidance(Node, frozen=True, kw_only=True):
    """The weights of a denoise op, one per row of `rows`, in that order."""

    rows: str
    weights: tuple[Weight, ...]


class Range(Node, frozen=True, kw_only=True):
    """The part of a trajectory with `from` >= t > `to`; without `to`, until clean."""

    from_: float | Ref = field(name="from")
    to: float | Ref | None = None


class Denoise(Node, frozen=True, kw_only=True, tag_field="op", tag="denoise"):
    """A sampling loop: the graph once per row of a schedule, from value `x` to value `out`.

    `spacings` has the samplers whose timesteps are not those of `spacing`.
    """

    graph: str
    x: str
    out: str
    conditions: dict[str, str]
    schedule: str
    sampler: Sampler | Ref
    spacing: Spacing | Ref
    steps: int | Ref
    eta: float | Ref
    final: Final
    variance: Variance
    guidance: Guidance | None = None
    range: Range | None = None
    noise: str | None = None
    shared_noise: bool | Ref = False
    spacings: dict[Sampler, Spacing] = {}


class Renoise(Node, frozen=True, kw_only=True, tag_field="op", tag="renoise"):
    """Forward diffusion of `x` from timestep `from` (null = clean) to timestep `to`.

    Both are lowered to timesteps of the trajectory that made the value `along`, if given.
    """

    x: str
    out: str
    schedule: str
    from_: int | Ref | None = field(name="from")
    to: int | Ref
    noise: str
    shared_noise: bool | Ref = False
    along: str | None = None


Op = Tokenize | Noise | Run | Denoise | Renoise


class Window(Node, frozen=True, kw_only=True):
    """Parts of `size` of the axes that have `symbol` in a slice's shape; 0 takes all at once.

    Parts may overlap; joined, one fades into the next. Every part but the first is led by the
    first `lead` entries, which count in its size.
    """

    symbol: str
    size: int | Ref
    overlap: int | Ref = 0
    lead: int = 0


class Each(Node, frozen=True, kw_only=True):
    """Run a stage once per part of some values; the first window is the outermost loop.

    `slices` maps the name that a part is seen by to the value it is cut from.
    """

    slices: dict[str, str]
    windows: tuple[Window, ...]


class Stage(Node, frozen=True, kw_only=True):
    """A straight-line list of ops; `collect` maps a chunk's value to the joined value."""

    name: str
    each: Each | None = None
    ops: tuple[Op, ...]
    collect: dict[str, str] = {}


class Output(Node, frozen=True, kw_only=True):
    """The finished frames: a value u8 [F, H, W, 3] and frames per second."""

    value: str
    fps: float | Ref


class Mode(Node, frozen=True, kw_only=True):
    """A whole program: what the user may set, the values, the stages, the result."""

    description: str = ""
    params: dict[str, Param]
    sizes: dict[str, Size] = {}
    rows: dict[str, tuple[Row, ...]] = {}
    values: dict[str, TensorSpec]
    stages: tuple[Stage, ...]
    output: Output


class Document(Node, frozen=True, kw_only=True):
    """All of plan.json; `plan.Plan` adds the folder it was read from."""

    format: int
    name: str
    system: str
    description: str = ""
    files: dict[str, str]
    graphs: dict[str, GraphSpec]
    schedules: dict[str, ScheduleSpec] = {}
    tokenizers: dict[str, TokenizerSpec] = {}
    modes: dict[str, Mode]
