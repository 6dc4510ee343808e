"""The loss terms in plain numpy, float64, with materialised matrices."""

import numpy as np


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def margin_logits(cosines, labels, *, classifier, margin, scale):
  logits = cosines.copy()
  rows = np.arange(len(labels))
  target = cosines[rows, labels]
  if classifier == "cosface":
    logits[rows, labels] = target - margin
  if classifier == "arcface":
    logits[rows, labels] = np.cos(np.arccos(target) + margin)
  return scale * logits


def cross_entropy(logits, labels, *, label_smoothing):
  num_classes = logits.shape[1]
  targets = np.full(logits.shape, label_smoothing / num_classes)
  targets[np.arange(len(labels)), labels] += 1.0 - label_smoothing
  return -(targets * log_softmax(logits)).sum(-1).mean()


def logit_distillation(
  teacher, student, *, teacher_temperature, student_temperature
):
  log_p = log_softmax(teacher / teacher_temperature)
  log_q = log_softmax(student / student_temperature)
  return (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()


def relation_distillation(teacher, student, *, num_blocks):
  batch = len(teacher)
  size = batch // num_blocks
  total = 0.0
  for i in range(num_blocks):
    t, s = (x[i * size : (i + 1) * size] for x in (teacher, student))
    total += ((s @ s.T - t @ t.T) ** 2).sum()
  return num_blocks / (4 * batch) * total
