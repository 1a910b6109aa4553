# SPDX-License-Identifier: Apache-2.0
"""Models that know who judges: classifiers over text vectors, and fine-tuned language models.

cfg = Personalize(data="convabuse", tasks=("abusive",))
results = run(cfg, "runs/convabuse")
"""

from nlp.personalization.encoders import Encoder, encode
from nlp.personalization.experiment import Personalize, run
from nlp.personalization.fitting import Fit, fit, predict
from nlp.personalization.llm_variants import Llm
from nlp.personalization.models import MODELS, Config, apply, param_specs
from nlp.personalization.scores import score, spread
from nlp.personalization.task import PersonalTask, examples

__all__ = [
    "MODELS",
    "Config",
    "Encoder",
    "Fit",
    "Llm",
    "PersonalTask",
    "Personalize",
    "apply",
    "encode",
    "examples",
    "fit",
    "param_specs",
    "predict",
    "run",
    "score",
    "spread",
]
