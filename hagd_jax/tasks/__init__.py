"""Behaviours: prompts, counterfactuals, answers and splits.

`task("ioi", model)` gives one of the tasks here; a task of your own is `text_task(...)` from
sentences or `Task(...)` from token ids.
"""

from hagd_jax.tasks.algorithm import Algorithm
from hagd_jax.tasks.algorithms import ALGORITHMS, dyck, induction, parity, sorting
from hagd_jax.tasks.checks import check_prompts
from hagd_jax.tasks.choices import Choice, Choices, make_choices
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text
from hagd_jax.tasks.duplicates import Overlap, overlap
from hagd_jax.tasks.metric import correct, logit_difference, read_logits
from hagd_jax.tasks.prompts import Prompts, batches, make_prompts
from hagd_jax.tasks.registry import algorithm_of, find, names, small_algorithm, task
from hagd_jax.tasks.seen import Seen, as_read, look, prompt_digests
from hagd_jax.tasks.spans import with_spans
from hagd_jax.tasks.text import single_tokens, text_task, word_token

__all__ = [
    "ALGORITHMS",
    "SPLITS",
    "Algorithm",
    "Choice",
    "Choices",
    "Overlap",
    "Prompts",
    "Seen",
    "Sizes",
    "Task",
    "Text",
    "algorithm_of",
    "as_read",
    "batches",
    "check_prompts",
    "correct",
    "dyck",
    "find",
    "induction",
    "logit_difference",
    "look",
    "make_choices",
    "make_prompts",
    "names",
    "overlap",
    "parity",
    "prompt_digests",
    "read_logits",
    "single_tokens",
    "small_algorithm",
    "sorting",
    "task",
    "text_task",
    "with_spans",
    "word_token",
]
