"""The stations of a run: experts, distillation, evaluation."""
