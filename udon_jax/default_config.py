"""Every config key, its default and its meaning; configs/ build on it.

The defaults are the setting of the UDON paper (NeurIPS 2024, sec. 4.1) but for
the length of the run, which every config chooses.
"""

import ml_collections
from ml_collections import config_dict

from udon_jax import domains

DECODERS = ("tensorflow", "opencv")
DEFAULT, OFFICIAL = "default", "official"
SEMANTICS = (DEFAULT, OFFICIAL)
RAISE, SKIP = "raise", "skip"


def get_config() -> ml_collections.ConfigDict:
  """Returns the default config, unlocked, for a config file to change."""
  c = ml_collections.ConfigDict()
  # "default", or "official" to train as the official code does, step by step:
  # relations within each device's part of the batch (loss.relation_blocks); a
  # backbone that sits still for one step more than is said, at rate 0 while
  # its gradient is computed and AdamW's moments and count go on; schedules of
  # the whole run, and the window of losses that weighs them (sampler). For its
  # pixels see data.round_pixels.
  c.semantics = DEFAULT
  # Seed of parameters, order, augmentation, sampler and stochastic depth.
  c.seed = 0
  # Folder with info_files/ and tfds/, or that tfds/ itself (see "Data" in the
  # README).
  c.data_dir = "data/uned"
  # Folder with <domain>/<split>.json; None is info_files/ in data_dir.
  c.info_files_dir = config_dict.placeholder(str)
  # "uned": images and classes must be as many as UnED has; None takes any data.
  c.data_check = config_dict.placeholder(str)
  # Names of the domains, in the order of their heads.
  c.domains = domains.UNED_NAMES
  # Domains that are not of UnED, as {name: description}: where the images are
  # and how they are split; see own_domains.py for the keys.
  c.own = ml_collections.ConfigDict()
  # YAML or JSON file of more such descriptions.
  c.own_file = config_dict.placeholder(str)
  # Images a step, over all devices.
  c.batch_size = 128
  # Length of the run: one of the two. An epoch is (training images of all
  # domains) // batch_size steps.
  c.num_train_steps = config_dict.placeholder(int)
  c.num_epochs = config_dict.placeholder(float)
  # Steps during which the backbone is not trained: at most one of the two.
  # With official semantics it is one step more, also where none is given.
  c.frozen_steps = config_dict.placeholder(int)
  c.frozen_epochs = config_dict.placeholder(float)
  # Cadences, in steps; the last step always logs, evaluates and saves.
  c.log_every = 100
  c.eval_every = 5000
  c.checkpoint_every = 1000
  # Weights to start from, as KIND:PATH: "augreg:FILE.npz", "clip:FILE",
  # "hf:DIR", "official:DIR" or "udon:WORKDIR", the best checkpoint of a run of
  # ours: teachers and prototypes too, of domains that both have.
  c.pretrained = config_dict.placeholder(str)
  # Workdir, ours or of the official code, whose newest checkpoint a new run
  # continues from.
  c.resume_from = config_dict.placeholder(str)
  # A step's batch is embedded in this many parts, to need less memory; the
  # result is that of one part.
  c.grad_accum_steps = 1
  # Steps that a profile is made of, as (first, end): from the first to the one
  # before the end. () makes none.
  c.profile_steps = ()
  c.mesh = _mesh()
  c.data = _data()
  c.model = _model()
  c.loss = _loss()
  c.prototypes = _prototypes()
  c.sampler = _sampler()
  c.optimizer = _optimizer()
  c.eval = _eval()
  c.checkpoint = _checkpoint()
  c.wandb = _wandb()
  return c


def _wandb():
  c = ml_collections.ConfigDict()
  # Project of Weights & Biases that the metrics also go to; None uses no W&B.
  c.project = config_dict.placeholder(str)
  # Name of the run there; None takes the workdir's.
  c.name = config_dict.placeholder(str)
  # "online" or "offline" (`wandb sync` sends it later); None does as the
  # environment variable WANDB_MODE says.
  c.mode = config_dict.placeholder(str)
  return c


def _mesh():
  c = ml_collections.ConfigDict()
  # Devices along each axis; -1 takes the devices that the other leaves.
  c.data = -1
  c.fsdp = 1
  return c


def _data():
  c = ml_collections.ConfigDict()
  # Training images are resized to a square of this side ...
  c.resize_size = 256
  # ... and cropped to this one, at random for training, centrally otherwise.
  c.crop_size = 224
  # Whether pixels are rounded to uint8, by at most half a grey level; False
  # keeps them as float32, as the official code does, at 4 times the bytes.
  c.round_pixels = True
  # Whether images are turned as their EXIF orientation tells; None does, but
  # with official semantics.
  c.exif = config_dict.placeholder(bool)
  # What decodes and resizes training images: "tensorflow", or "opencv", which
  # is faster and at most one grey level away. None takes the latter where it
  # is installed (extra `fast`).
  c.decoder = config_dict.placeholder(str)
  # "raise" ends a run at the first training image that is damaged; "skip"
  # trains on the one after it instead, and names it in the log ...
  c.on_bad_example = RAISE
  # ... unless more than this share of a domain's images is bad (one may be).
  c.max_bad_share = 0.001
  # Threads that decode each domain's images; 0 takes one for each processor
  # that this process may use.
  c.num_threads = 0
  # Batches made ahead, for each domain.
  c.prefetch = 2
  return c


def _model():
  c = ml_collections.ConfigDict()
  # "<family>_<size><patch>", with families vit (AugReg), clip, hfvit, dinov2,
  # dinov2reg and sizes mu, xs, ti, s, b, l, h, g: see models/architecture.py.
  c.name = "vit_b16"
  # Where the model has another size than its name says.
  c.width = config_dict.placeholder(int)
  c.depth = config_dict.placeholder(int)
  c.num_heads = config_dict.placeholder(int)
  c.mlp_dim = config_dict.placeholder(int)
  # Activation of the MLP ("gelu_tanh", "gelu", "quick_gelu", "swiglu"), what
  # is added to the variance in every LayerNorm, and extra tokens; None is what
  # the family has.
  c.activation = config_dict.placeholder(str)
  c.norm_eps = config_dict.placeholder(float)
  c.num_registers = config_dict.placeholder(int)
  # Precision of the computation; parameters are always float32.
  c.dtype = "float32"
  # Widths of the embeddings.
  c.student_dim = 64
  c.teacher_dim = 256
  # Widths of hidden layers in the projections; () is a linear projection.
  c.student_hidden = ()
  c.teacher_hidden = ()
  # Share of residual branches dropped at the last block; 0 at the first.
  c.stochastic_depth = 0.0
  # Standard deviation of the initial position embeddings.
  c.position_stddev = 0.02
  # Transformer blocks written out in one iteration of the loop over them.
  c.unroll = 1
  # What the backward pass computes again instead of keeping: None keeps all,
  # "elementwise" keeps products of matrices and little else, "blocks" keeps
  # the input of every block alone, at a third more computation.
  c.remat = config_dict.placeholder(str)
  # Kernel of the attention: "xla", or "cudnn" on NVIDIA GPUs in bfloat16; None
  # takes the latter where it can.
  c.attention = config_dict.placeholder(str)
  # Statistics of the images, of values in 0..1; None takes the family's.
  c.pixel_mean = config_dict.placeholder(tuple)
  c.pixel_std = config_dict.placeholder(tuple)
  return c


def _loss():
  c = ml_collections.ConfigDict()
  # Margin on the target class: "normface" (none), "cosface" or "arcface".
  c.classifier = "normface"
  # The margin: a cosine for CosFace, radians for ArcFace.
  c.margin = 0.0
  # Factor on the cosines before the softmax of the classification terms.
  c.scale = 16.0
  c.label_smoothing = 0.0
  c.teacher_temperature = 0.1
  c.student_temperature = 0.1
  # Diagonal blocks of the batch in which relations are compared; 1 is the
  # whole batch. None is 1, with official semantics the number of devices; a
  # number makes fewer devices compute what so many do.
  c.relation_blocks = config_dict.placeholder(int)
  c.weights = ml_collections.ConfigDict()
  c.weights.teacher_classification = 1.0
  c.weights.student_classification = 1.0
  c.weights.logit_distillation = 1.0
  c.weights.relation_distillation = 1.0
  return c


def _prototypes():
  c = ml_collections.ConfigDict()
  # Most classes of a domain, on each device, that are scored at a time: they
  # bound a step's memory, whatever the number of classes. None takes the
  # platform's best.
  c.block_rows = config_dict.placeholder(int)
  # Precision of the products of embeddings and prototypes: "highest"
  # (float32), "high" or "default" (see jax.lax.Precision); parameters are
  # always float32.
  c.precision = "highest"
  return c


def _sampler():
  c = ml_collections.ConfigDict()
  # "dynamic", "round_robin", "balanced", "dataset_size" or
  # "specialist_top_steps".
  c.strategy = "dynamic"
  # Steps planned at a time, and over which losses are averaged. With official
  # semantics the first window has one step less.
  c.update_every = 1000
  # Which domains take the remainder of a window: "largest_fraction", or the
  # "last" one. None is the first, with official semantics the second.
  c.rounding = config_dict.placeholder(str)
  # With official semantics, the dynamic strategy averages the losses since a
  # logger last forgot them: after steps 1, N + 1, 2N + 1, ... and the last.
  # None is a tenth of an epoch.
  c.flush_every = config_dict.placeholder(int)
  # Relative number of steps of every domain, for "specialist_top_steps".
  c.allocation = ()
  return c


def _optimizer():
  c = ml_collections.ConfigDict()
  # Peak rates of the projections and classifiers, and of the backbone.
  c.learning_rate = 1e-3
  c.backbone_learning_rate = 1e-5
  # "constant" or "cosine" (to 0 at the last step), after a linear warm-up.
  c.schedule = "constant"
  c.warmup_steps = 0
  # Last steps of the frozen phase in which the backbone's gradient is computed,
  # though it sits still, so that AdamW's moments are warm at the thaw: 0 starts
  # them there, -1 takes the whole phase, as the official code does. After w
  # steps, b2^w of the second moments is missing.
  c.moment_warmup_steps = 0
  c.b1 = 0.9
  c.b2 = 0.999
  c.eps = 1e-8
  # Decoupled, on every parameter.
  c.weight_decay = 1e-6
  # Bound of the global norm of the module's gradient.
  c.grad_clip_norm = config_dict.placeholder(float)
  return c


def _eval():
  c = ml_collections.ConfigDict()
  # Images embedded at a time, over all devices.
  c.batch_size = 128
  # "recall@K", "mmp@K" and "map@r".
  c.metrics = ("recall@1", "recall@5", "mmp@5")
  # Embeddings compared in validation; the student's must be among them.
  c.embeddings = ("student", "teacher", "backbone")
  # Queries and index rows scored at a time, which bound the search's memory
  # (queries x index rows x 4 bytes); None takes the platform's best.
  c.query_chunk_size = config_dict.placeholder(int)
  c.index_chunk_size = config_dict.placeholder(int)
  return c


def _checkpoint():
  c = ml_collections.ConfigDict()
  # Newest checkpoints kept, besides the best one; with two, one is left to go
  # back to should the disk damage the other.
  c.keep_latest = 2
  return c
