"""Every setting: name, type, range, default and help; `run/assembly/letters.py` makes symbols of them. No torch here.

The symbols of docs/method.md stand in the help texts, in backticks. A help text can be read alone.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from trajmatch.settings import ranges
from trajmatch.settings.baseline import Baseline
from trajmatch.settings.evaluation import Evaluation
from trajmatch.settings.inputs import Images, Network

Sharpness = Annotated[str, ranges.Choice(("auto", "none", "sam", "asam", "gsam", "vasso", "satm"))]
LogName = Literal["tensorboard", "wandb", "trackio"]
EngineName = Literal["auto", "eager", "fused", "compiled"]
MethodName = Literal[
    "mtt", "ftd", "tesla", "datm", "satm", "satm-fi", "satm-da", "contra", "satm-contra",
    "random", "herding", "k-center", "dc", "dsa", "dm", "mdc", "rat-bptt", "at-bptt", "satm-bptt",
]  # fmt: skip


@dataclass(frozen=True)
class Expert:
    """How experts are trained on the real images."""

    epochs: Annotated[int, ranges.Range(1, 1_000_000)] = 50
    """Epochs for which an expert is trained."""
    lr: ranges.Positive = 0.01
    """Learning rate of the experts' SGD."""
    momentum: ranges.Share = 0.0
    """Momentum of the experts' SGD."""
    weight_decay: ranges.NotNegative = 0.0
    """Weight decay of the experts' SGD."""
    batch: ranges.Count = 256
    """Real images per step of an expert."""
    augment: ranges.Families = "color_crop_cutout_flip_scale_rotate"
    """Families of augmentation of the real images, joined by '_', or none."""
    flat: Literal["auto", "yes", "no"] = "auto"
    """Train for flatness, as FTD does: every step perturbs the weights and takes two gradients. auto is yes for ftd,
    datm and satm-fi, and no for others; --flat is short for yes."""
    flat_radius: ranges.Positive = 0.01
    """Radius of the perturbation of flat training (`rho`), relative to the weights."""
    flat_alpha: ranges.NotNegative = 0.3
    """Weight, in flat training, of the part of the gradient that is orthogonal to the perturbed gradient (`alpha`)."""
    save_every: ranges.Count | None = None
    """Steps between snapshots of an expert; None keeps one for each epoch. Where this is set, the epochs of the group
    `matching` count snapshots."""
    storage: Literal["float32", "fp16-deltas"] = "float32"
    """How snapshots are stored; half-precision differences from the first take half the disk (error below 0.1 %)."""
    threads: ranges.Threads = 1
    """Threads of each process that trains experts; results repeat bitwise for the same number."""
    workers: ranges.Threads | None = None
    """Processes that train experts at once; None takes one per core (one on a GPU)."""
    shard: Annotated[str, ranges.Text(), ranges.Shard()] | None = None
    """Train only part i of n of the experts, written i/n and counted from 0: for job arrays."""


@dataclass(frozen=True)
class Matching:
    """The segment that is matched and how the inner loop is differentiated."""

    inner_steps: Annotated[int, ranges.Range(1, 1_000_000)] = 50
    """Training steps on the synthetic set for one segment (`T`)."""
    expert_epochs: ranges.Count = 2
    """Epochs that the expert takes for one segment (`M`)."""
    first_epoch: ranges.CountOrNone = 0
    """First epoch at which a segment may start (`T-`)."""
    last_epoch: ranges.CountOrNone = 2
    """Epoch before which every segment starts (`T+`)."""
    window_start: ranges.CountOrNone | None = None
    """Epoch before which segments start at first; this end of the window grows to --matching.last-epoch. None is the
    middle of the window for datm and satm-da, and --matching.last-epoch, which means no growth, for others."""
    window_steps: ranges.Count | None = None
    """Outer steps over which the window of start epochs grows; None is a tenth of all outer steps."""
    segments: ranges.Few | None = None
    """Segments that one outer step matches concurrently (`K`), of different experts and start epochs; None is 4 for
    contra, 2 for satm-contra and 1 for others."""
    concurrent_from: ranges.CountOrNone | None = None
    """First outer step that matches --matching.segments; each step before it matches one segment. None is two thirds of
    the steps for satm-contra, and 0 for others."""
    combine: Literal["mean", "adaptive", "pcgrad", "mgda", "upgrad"] = "mean"
    """How the hypergradients of concurrent segments become one; pcgrad, mgda and upgrad need torchjd."""
    together: Literal["auto", "yes", "no"] = "auto"
    """Compute concurrent segments at once; auto does so where it is faster: on CUDA, or compiled for small steps."""
    batch: ranges.Count | None = None
    """Synthetic images per inner step; None takes all."""
    augment: ranges.Families = "color_crop_cutout_flip_scale_rotate"
    """Families of augmentation of the synthetic images in an inner step, joined by '_', or none."""
    differentiated_steps: ranges.Count | None = None
    """How many of the last inner steps are differentiated (`iota`); None is a third of them for the satm methods,
    rat-bptt and at-bptt, and all for others."""
    restart_step: ranges.CountOrNone | None = None
    """Inner step of the first trajectory at which the second trajectory starts (`tau`); 0 reuses nothing. None is where
    differentiation begins for the satm methods, where the ascent is fresh, and 0 for others."""
    sharpness: Sharpness = "auto"
    """Rule of the ascent: none, sam, asam, gsam, vasso; satm, which is sam with smoothing; or MODULE:NAME, your own
    function of the hypergradient, the images and --matching.radius. auto is sam for the satm methods and none for
    others."""
    ascent: Literal["auto", "fresh", "previous"] = "auto"
    """Direction of the ascent: the hypergradient of a first trajectory (fresh), or that of the step before (previous),
    which needs no trajectory and leaves none to reuse. auto is previous for satm-contra and fresh for others."""
    radius: ranges.NotNegative = 0.1
    """Radius of the ascent (`rho`), a norm over the whole synthetic set in the network's input space."""
    smoothing: ranges.NotNegative | None = None
    """RMS of the ascent's noise relative to each image's (`gamma`); None is 0.05 for SATM's ascent and 0 elsewhere."""
    asam_offset: ranges.NotNegative = 0.01
    """Offset that asam adds to `|X|` in its scale (`c`)."""
    gsam_alpha: ranges.NotNegative = 0.3
    """Weight of the orthogonal part of the gradient in gsam (`alpha`)."""
    vasso_decay: Annotated[float, ranges.Range(0, 1, above=True)] = 0.2
    """Weight of the newest gradient in the average of vasso (`k`)."""
    rate: Literal["auto", "closed-form", "exact", "fixed"] = "auto"
    """Derivative of the step size. auto is closed-form for the satm methods, fixed for dc, dsa, dm, mdc and wherever
    --baseline.inner is adam, and exact, by the sweep, for others."""
    estimator: Literal["auto", "adjoint", "unrolled", "truncated", "tesla", "random-window"] = "auto"
    """How the hypergradient is estimated. auto is truncated where only the last steps are differentiated; elsewhere it
    is tesla for the method tesla, and adjoint, the exact value, for others."""
    early_stop: bool = False
    """Match the iterate that is nearest to the segment's end, by the sum of absolute differences, where that is not the
    last inner step, as ATT does: what lies behind it is not differentiated."""
    masked_share: ranges.Share = 0.0
    """Share of the weights, those that came nearest to their target, that the matching loss leaves out in each step, as
    PAD does (`alpha`); 0 leaves out none."""
    path: Literal["expert", "straight"] = "expert"
    """Match the expert's snapshots, or points on the straight line from its first to its last snapshot, as MCT does:
    each layer goes along it at its own pace, and segments start between epochs too."""
    waypoints: Annotated[int, ranges.Range(0, 1000)] = 0
    """Snapshots between the first and the last, evenly spaced, that the straight path goes through, piece by piece."""
    halved: bool = False
    """Take half of what the estimator tesla gives, as the published program and its learning rates of the images do."""
    keep_every: ranges.Count = 1
    """Keep one inner iterate in this many and compute the others again: less memory for networks of many parameters."""
    mixed: Literal["reverse-over-reverse", "forward-over-reverse", "central-difference"] = "reverse-over-reverse"
    """How the mixed second derivative is taken; central-difference alone is not exact."""


@dataclass(frozen=True)
class Outer:
    """How the synthetic images and the step size are optimised."""

    seed: ranges.Seed | None = None
    """Seed of the distillation alone (initial images, segments, draws); None is --seed, that of experts and splits."""
    initial: Literal["auto", "real", "noise", "correct", "herding", "k-center"] = "auto"
    """Start from random real images, from Gaussian noise, from real images that experts classify correctly, or from
    those that herding or k-center chooses by the first expert's features. auto is correct for datm and satm-da,
    herding for herding, k-center for k-center, and real for others."""
    labels: Literal["auto", "hard", "learned", "teacher"] = "auto"
    """Labels: one-hot (hard); learned, starting at the experts' logits; or what the segment's expert says of the images
    (teacher). auto is learned for datm, satm-da and satm-contra, and for satm-bptt from five images per class on,
    teacher for tesla, and hard for others; without a preset and a --method it is learned from 50 classes or ten images
    per class on."""
    lr_labels: ranges.Positive = 2.0
    """Learning rate of learned labels, which are learned as logits."""
    momentum_labels: ranges.Share = 0.9
    """Momentum of learned labels."""
    step_size: ranges.Positive | None = 0.01
    """Initial step size of the inner loop (`eta`), from which the step size is learned; None tries several on the first
    images, and takes the largest at which the matching loss is below 1.2, or 0.01 where no experts are matched."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the images."""
    lr_images: ranges.Positive = 100.0
    """Learning rate of the images."""
    momentum: ranges.Share = 0.5
    """Momentum of SGD on the images; adam's beta1 is always 0.9."""
    lr_step_size: ranges.Positive = 0.02
    """Learning rate of the logarithm of the step size."""
    momentum_step_size: ranges.Share = 0.5
    """Momentum of the logarithm of the step size."""
    clip: ranges.Positive | None = None
    """Largest norm of the hypergradient; None does not clip."""
    relative_clip: ranges.NotNegative | None = None
    """Largest norm of the hypergradient in units of the running mean of its norms after clipping, above 1; 0 does not
    clip; None is 2 for satm-contra, rat-bptt and at-bptt, and 0 for others."""
    ema: ranges.Share | None = None
    """Decay of the moving average of the images that is delivered; 0 delivers the last images. None is an average that
    reaches back over a fifth of the steps for ftd, and 0 for others."""
    image_norm: ranges.NotNegative = 0.0
    """Norm that every image is scaled to in the network's input space, at the start and after each outer step; 1 is the
    unit norm of RaT-BPTT's start, and 0 scales none. Shifts of colour in an augmentation do not shrink with it."""
    guard: ranges.NotNegative | None = None
    """Largest matching loss at which an outer step changes anything; 0 is no limit. None is 1 for datm and satm-da, and
    0 for others."""
    threads: ranges.Threads | None = None
    """Threads of the outer loop, on which the last bits depend; None is one for small networks, else one per core."""
    checkpoint_seconds: ranges.NotNegative = 30.0
    """Seconds between checkpoints of the distillation, and at most of an expert that is being trained."""
    snapshots: ranges.Few = 4
    """Sets that are kept along the way, evenly spaced, among which validation images choose; the last set is one."""
    snapshot_at: tuple[ranges.Count, ...] = ()
    """Outer steps after which the set is kept, beside those of --outer.snapshots."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    data: Annotated[str, ranges.Text(empty=True)] = "digits"
    """The real images: digits, a folder of class folders, Parquet, .npz, CIFAR's python archive, or
    hf:NAME[:CONFIG][@REVISION] on the Hugging Face Hub."""
    ipc: ranges.Count = 1
    """Synthetic images per class."""
    factor: Annotated[int, ranges.Range(1, 64)] = 1
    """Cut each synthetic image into this many tiles along each side (`f`), each of which a network sees enlarged to a
    whole image: f^2 images at the bytes of one (IDC). All mini-batches count the images that a network sees."""
    method: MethodName = "satm"
    """The method; section 5 of docs/method.md, in the repository, says what makes each of them."""
    steps: ranges.CountOrNone = 300
    """Outer steps of the distillation."""
    experts: ranges.Words = "10"
    """How many experts to train, or a folder of trained ones."""
    out: ranges.Words | None = None
    """Output folder; the default is runs/NAME, of the preset's name or the images', and of --ipc, --method, --steps
    and --seed where they are not the preset's."""
    seed: ranges.Seed = 0
    """Seed of every random draw."""
    device: ranges.Words = "auto"
    """Where tensors are computed: auto, cpu, cuda, cuda:1, mps."""
    engine: EngineName = "auto"
    """How derivatives are computed: by torch one by one, fused kernels (CPU) or torch.compile; auto is the fastest."""
    precision: Literal["float32", "bf16-sweep", "bf16", "tf32"] = "float32"
    """Arithmetic of the inner loop: bf16-sweep rounds to bfloat16 in the sweep alone, bf16 in the inner steps too; tf32
    is CUDA's. Weights, hypergradients, experts and scores are float32 always."""
    deterministic: bool = False
    """On CUDA take only algorithms that repeat to the bit, at some cost of speed; on a CPU results repeat anyway."""
    micro_batch: ranges.Count | None = None
    """Most images that an inner step takes at a time: fewer need less memory for the same values; None takes all."""
    memory: ranges.Words | None = None
    """Most memory that the outer loop may take, such as 4GB; --micro-batch is chosen to fit."""
    resume: bool = False
    """Go on from the checkpoint of an interrupted run."""
    log: tuple[LogName, ...] = ()
    """Loggers that are told of outer steps, and of pictures and scores of the set, beside the file metrics.jsonl:
    tensorboard, wandb or trackio, or several of them; results do not depend on it."""
    images: Images = field(default_factory=Images)
    network: Network = field(default_factory=Network)
    expert: Expert = field(default_factory=Expert)
    matching: Matching = field(default_factory=Matching)
    outer: Outer = field(default_factory=Outer)
    baseline: Baseline = field(default_factory=Baseline)
    evaluation: Evaluation = field(default_factory=Evaluation)
