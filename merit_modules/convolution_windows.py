"""A strided convolution over time as a product of windows with weights."""


def windows_of(frames, kernel, stride):
    """Cut out what each frame of a convolution sees.

    Arguments
    ---------
    frames : torch.Tensor
        Frames (N, C).
    kernel, stride : int
        Of the convolution.

    Returns
    -------
    torch.Tensor
        Windows (T, K * C): taps outside, channels inside.

    Example
    -------
    >>> import torch
    >>> windows_of(torch.arange(5.0)[:, None], kernel=3, stride=2)
    tensor([[0., 1., 2.],
            [2., 3., 4.]])
    """
    return frames.unfold(0, kernel, stride).transpose(1, 2).flatten(1)


def window_weight(conv):
    """Turn a convolution's weights into those of its windows.

    Arguments
    ---------
    conv : torch.nn.Conv1d
        The convolution, without padding or groups.

    Returns
    -------
    torch.Tensor
        Weights (E, K * C), in the order of :func:`windows_of`.

    Example
    -------
    >>> import torch
    >>> window_weight(torch.nn.Conv1d(4, 8, 3)).shape
    torch.Size([8, 12])
    """
    return conv.weight.transpose(1, 2).flatten(1)
