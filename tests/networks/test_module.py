"""What modules of one network share."""

import pytest
import torch
from torch import nn

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.module import NetworkModule


def test_a_network_whose_weights_were_left_in_their_files_is_named():
    module = NetworkModule("nowhere")
    module.inner = nn.Linear(2, 2)
    module.split_all()
    module.other = nn.Linear(2, 2, device=torch.device("meta"))
    with pytest.raises(DataError, match=r"other\.weight.*cannot be split"):
        module.split_all()
