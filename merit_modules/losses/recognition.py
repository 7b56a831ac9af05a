"""The SER losses: classes, or attributes as numbers."""

import torch
import torch.nn.functional as F


class EmotionLoss:
    """Class-weighted cross entropy (paper).

    Arguments
    ---------
    class_weights : torch.Tensor, optional
        Weight per class (C,).

    Example
    -------
    >>> import torch
    >>> loss = EmotionLoss(torch.tensor([1.0, 3.0]))
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor(0.6931)
    """

    term = "ser_ce"

    def __init__(self, class_weights=None):
        self.class_weights = class_weights

    def __call__(self, logits, labels):
        """Compute the loss.

        Arguments
        ---------
        logits : torch.Tensor
            Class logits (B, C).
        labels : torch.Tensor
            Class indices (B,) or, as soft labels, probabilities (B, C).

        Returns
        -------
        torch.Tensor
            The loss, a scalar: with indices an average by class weight, with
            probabilities over utterances.
        """
        return F.cross_entropy(logits, labels, self.class_weights)

    def weight(self, labels):
        """Tell how much a batch counts in an average over batches.

        Arguments
        ---------
        labels : torch.Tensor
            As in :meth:`__call__`.

        Returns
        -------
        torch.Tensor or int
            Sum of the class weights, or the number of utterances.
        """
        if self.class_weights is None or labels.dim() > 1:
            return len(labels)
        return self.class_weights[labels].sum()


class AttributeLoss:
    """One minus the concordance correlation (CCC), averaged over attributes.

    Of the utterances of a batch, so batches should not be small.

    Example
    -------
    >>> import torch
    >>> labels = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> AttributeLoss()(labels, labels), AttributeLoss()(-labels, labels)
    (tensor(0.), tensor(2.))
    """

    term = "ser_ccc"

    def __call__(self, outputs, labels, total=None):
        """Compute the loss.

        Arguments
        ---------
        outputs : torch.Tensor
            Estimates (B, A).
        labels : torch.Tensor
            Attributes (B, A).
        total : callable, optional
            ``Share.total``, where several processes hold the batch.

        Returns
        -------
        torch.Tensor
            The loss, a scalar from 0 to 2.
        """
        outputs = outputs.float()
        if total is None:
            return 1.0 - concordance(outputs, labels).mean()
        return 1.0 - _concordance_of_all(outputs, labels, total).mean()

    def weight(self, labels):
        """Tell how much a batch counts in an average over batches.

        Arguments
        ---------
        labels : torch.Tensor
            Attributes (B, A).

        Returns
        -------
        int
            The number of utterances.
        """
        return len(labels)


def concordance(estimate, reference):
    """Compute Lin's concordance correlation coefficient (Biometrics, 1989).

    ``2 s_xy / (s_x^2 + s_y^2 + (m_x - m_y)^2)`` with biased moments.

    Arguments
    ---------
    estimate : torch.Tensor
        Estimates (B, A).
    reference : torch.Tensor
        References (B, A).

    Returns
    -------
    torch.Tensor
        Coefficient per attribute (A,); 0 where neither varies.

    Example
    -------
    >>> import torch
    >>> x = torch.tensor([[1.0], [2.0], [3.0]])
    >>> concordance(x + 1, x)
    tensor([0.5714])
    """
    means = estimate.mean(dim=0), reference.mean(dim=0)
    centred = estimate - means[0], reference - means[1]
    covariance = (centred[0] * centred[1]).mean(dim=0)
    spread = sum(x.square().mean(dim=0) for x in centred)
    spread = spread + (means[0] - means[1]).square()
    return 2.0 * covariance / spread.clamp_min(1e-8)


def _concordance_of_all(estimate, reference, total):
    """Compute the same from sums, in float64, that processes can add up."""
    x, y = estimate.double(), reference.double()
    powers = [torch.ones_like(x), x, y, x * y, x.square() + y.square()]
    n, *sums = total(torch.stack(powers).sum(dim=1))
    x, y, product, square = (moment / n for moment in sums)
    spread = square - 2.0 * x * y
    return (2.0 * (product - x * y) / spread.clamp_min(1e-8)).to(estimate.dtype)
