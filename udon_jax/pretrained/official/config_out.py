"""Our config as the official one, with every key that the official code reads.

Sources: as for `configs`.
"""

from typing import Any

import ml_collections

from udon_jax.models import architecture
from udon_jax.pretrained.official import configs, names


def from_config(
  config: ml_collections.ConfigDict,
  *,
  arch: architecture.Architecture,
  family: str,
  steps: tuple[int, int],
  steps_per_epoch: int,
) -> dict[str, Any]:
  """Returns the official config of one of our runs.

  Args:
    config: of the run.
    arch: its architecture.
    family: "vit" or "clip".
    steps: of the whole run, and of its frozen phase.
    steps_per_epoch: images of all domains, by the batch size.
  """
  domains = ",".join(config.domains)
  return {
    **_ALWAYS,
    "dataset_name": domains,
    "knn_eval_names": domains,
    "model_class": f"udon_{'clip_' * (family == 'clip')}vit_with_embedding",
    "model_type": model_type(arch),
    "model": _model_values(config.model, arch),
    "loss": _loss_values(config.loss),
    "label_smoothing": config.loss.label_smoothing or None,
    "rng_seed": config.seed,
    "batch_size": config.batch_size,
    "eval_batch_size": config.eval.batch_size,
    "knn_eval_batch_size": config.eval.batch_size,
    "eval_dataset_dir": _below(config.data_dir, "tfds"),
    "train_dataset_dir": _below(config.data_dir, "tfds"),
    "info_files_dir": config.info_files_dir
    or _below(config.data_dir, "info_files"),
    **_sampler_values(config.sampler),
    **_optimizer_values(config.optimizer),
    **_lengths(config.optimizer, steps, steps_per_epoch=steps_per_epoch),
  }


# What our runs have no choice of.
_ALWAYS: dict[str, Any] = {
  "experiment_name": "universal-embedding-vit",
  "data_dtype_str": "float32",
  "model_dtype_str": "float32",
  "classifier": "separate",
  "pretrained_ckpt_dir": "",
  "pretrained_ckpt": "",
  "init_ckpt": "",
  "params_early_train": list(names.EARLY_PARAMS),
  "update_sampler_logit_type": "teacher",
  "disabled_separate_knns": "train_knn,test_knn",
  "disabled_merged_knns": "train_knn,test_knn",
  "do_knn": True,
  "embedd_to_eval": "universal_student_embedd,teacher_embedd",
  "universal_embedding_is": "universal_student_embedd",
  "do_final_testing": True,
  "top_k": 5,
  "save_descriptors": False,
  "extract_only_descrs": False,
  "save_neighbors": False,
  "descr_save_path": None,
  "write_summary": True,
  "checkpoint": True,
  "only_best_checkpoint": False,  # what is written has its own number
  "max_to_keep": 1000,
  "debug_train": False,
  "debug_eval": False,
  "count_flops": False,
  "project_feats_knn": True,
  "log_domain_acc": True,
  "log_csv": False,
}


def _sampler_values(sampler) -> dict[str, Any]:
  dynamic = sampler.strategy == "dynamic"
  return {
    "sampling_strategy": "round_robin" if dynamic else sampler.strategy,
    "specialist_top_steps": list(sampler.allocation),
    "update_sampler": dynamic,
    "update_sampler_every_steps": sampler.update_every,
  }


def _optimizer_values(optimizer) -> dict[str, Any]:
  return {
    "optimizer": "adam",
    "optimizer_configs": {
      theirs: optimizer[ours] for ours, theirs in configs.OPTIMIZER.items()
    },
    "explicit_weight_decay": None,
    "l2_decay_factor": None,
    "max_grad_norm": optimizer.grad_clip_norm,
  }


def _lengths(
  optimizer, steps: tuple[int, int], *, steps_per_epoch: int
) -> dict[str, Any]:
  """Returns lengths in steps and in epochs, and the rates over them."""
  total, frozen = steps
  rate, backbone_rate = (
    optimizer.learning_rate,
    optimizer.backbone_learning_rate,
  )
  factors = ["constant"]
  factors += ["linear_warmup"] * bool(optimizer.warmup_steps)
  factors += ["cosine_decay"] * (optimizer.schedule == "cosine")
  return {
    "steps_per_epoch": steps_per_epoch,
    "num_training_epochs": total / steps_per_epoch,
    "num_training_steps": total,
    "frozen_epochs": frozen / steps_per_epoch,
    "backbone_learning_rate_multiplier": backbone_rate / rate if rate else 0.0,
    "lr_configs": {
      "learning_rate_schedule": "compound",
      "factors": "*".join(factors),
      "base_learning_rate": rate,
      "warmup_steps": optimizer.warmup_steps,
      "steps_per_cycle": total,
      "backbone": {
        "base_learning_rate": backbone_rate,
        # Theirs are frozen while at most so many updates were before.
        "frozen_steps": frozen - 1,
      },
    },
  }


def model_type(arch: architecture.Architecture) -> str:
  """Returns a name such as "B/16"; sizes that have none are "custom"."""
  name = architecture.describe(arch, family="vit")["name"]
  size = name.removeprefix("vit_").removesuffix(str(arch.patch_size))
  return f"{size.capitalize() or 'custom'}/{arch.patch_size}"


def _model_values(model, arch: architecture.Architecture) -> dict[str, Any]:
  return {
    "hidden_size": arch.width,
    "patches": {"size": [arch.patch_size] * 2},
    "num_heads": arch.num_heads,
    "mlp_dim": arch.mlp_dim,
    "num_layers": arch.depth,
    "classifier": "token",
    "representation_size": None,
    "positional_embedding": "learned_1d",
    "output_dim": model.student_dim,
    "attention_dropout_rate": 0.0,
    "dropout_rate": 0.0,
    "stochastic_depth": model.stochastic_depth,
    "universal_student_dim": [*model.student_hidden, model.student_dim],
    "teacher_dim": [*model.teacher_hidden, model.teacher_dim],
  }


def _loss_values(loss) -> dict[str, Any]:
  values: dict[str, Any] = {
    "m": loss.margin,
    "scale": loss.scale,
    "transform_logits_type": loss.classifier,
    "distill_udon_logits_temperature": {
      "teacher": loss.teacher_temperature,
      "universal_student": loss.student_temperature,
    },
  }
  on = []
  for ours, term in configs.TERMS.items():
    values[term.weight] = loss.weights[ours]
    used = bool(loss.weights[ours])
    if term.listed:
      on += [term.used] * used
    else:
      values[term.used] = used
  return {**values, "classif_losses_on": ",".join(on)}


def _below(folder: str, name: str) -> str:
  """Returns the path of a folder in the data directory, for the config.

  Args:
    folder: the data directory, or its tfds/.
    name: of the folder in it.
  """
  root = folder.rstrip("/").removesuffix("/tfds")
  return f"{root}/{name}" if root else ""
