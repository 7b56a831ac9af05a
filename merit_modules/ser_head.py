"""The SER head: frames of features to the emotion of the utterance."""

from torch import nn


class SERHead(nn.Module):
    """Pooling, then a classifier with one hidden layer (paper Sec. III).

    Arguments
    ---------
    pooling : torch.nn.Module
        Frames (B, T, R) and valid frames (B,) to one vector per utterance;
        states its width as ``output_size``.
    n_classes : int
        Number of emotion classes C.
    hidden_size : int
        Width of the hidden layer (paper: 1024).
    dropout : float
        Dropout before each linear layer, 0 to 1 (paper: 0.5).

    Example
    -------
    >>> import torch
    >>> from merit_modules.pooling import AttentiveStatsPooling
    >>> head = SERHead(AttentiveStatsPooling(6), n_classes=4, hidden_size=8)
    >>> head(torch.rand(2, 5, 6), torch.tensor([5, 3])).shape
    torch.Size([2, 4])
    """

    def __init__(self, pooling, n_classes, hidden_size=1024, dropout=0.5):
        super().__init__()
        self.pooling = pooling
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(pooling.output_size, hidden_size),
            nn.LayerNorm(hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, n_classes),
        )
        self.n_classes = n_classes
        self.hidden_size = hidden_size
        self.dropout = dropout

    def forward(self, frames, n_frames):
        """Classify.

        Arguments
        ---------
        frames : torch.Tensor
            Features (B, T, R).
        n_frames : torch.Tensor
            Valid frames per utterance (B,).

        Returns
        -------
        torch.Tensor
            Class logits (B, C).
        """
        return self.classifier(self.pooling(frames, n_frames))
