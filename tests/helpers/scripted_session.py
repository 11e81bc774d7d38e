"""A session whose model says what a script says."""

import torch

from cllm_bench.engine.session import Output


class Scripted:
    """A session whose model counts: a token's successor is the token plus one."""

    device = torch.device("cpu")
    room = 1000

    def __init__(self):
        self.rows = []

    def prefill(self, prompt_ids):
        return self._output([int(prompt_ids[-1])])

    def forward(self, ids):
        self.rows.append(list(ids))
        return self._output(list(ids))

    def keep(self, rows):
        pass

    def _output(self, ids):
        logits = torch.zeros(len(ids), 100)
        logits[range(len(ids)), [token + 1 for token in ids]] = 1.0
        return Output(logits)
