# SPDX-License-Identifier: Apache-2.0
"""Augmenting with any OpenAI-compatible endpoint; the key is read from the environment.

python -m nlp.augment --config=configs/nlp/augment_endpoint.py:MODEL --workdir=runs/aug_endpoint
"""

from ml_collections import ConfigDict

from configs.nlp import augment_tweeteval


def get_config(model: str = "gpt-4o-mini") -> ConfigDict:
    config = augment_tweeteval.get_config()
    config.generator = "model"
    config.model = ConfigDict(
        {
            "name": "endpoint",
            "model": model,
            "base_url": "https://api.openai.com/v1",
            "api_key_env": "OPENAI_API_KEY",
            "temperature": 1.0,
            "max_tokens": 256,
            "budget": "2.00",
            "price_prompt": "0.15",
            "price_completion": "0.60",
        }
    )
    del config.small
    return config
