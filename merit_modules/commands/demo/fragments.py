"""What the page says, as HTML in which nothing of a visitor is markup."""

import base64

from merit_modules.data.escaping import html as escape
from merit_modules.inference.emotion import Emotion

TITLES = {
    "spectrograms": "Spectrograms",
    "timeline": "Emotion over time",
    "routing": "Which expert served which frame",
}
CSS = """
.gradio-container { max-width: 1180px !important; margin: auto; }
.merit h3 { font-size: 1.05rem; margin: 1rem 0 .3rem; }
.merit img { width: 100%; height: auto; background: white; }
.merit .emotion { font-size: 1.7rem; margin: .2rem 0; }
.merit ul { list-style: disc; padding-left: 1.2rem; }
.merit .facts { overflow-wrap: anywhere; }
.merit table { border-collapse: collapse; width: 100%; max-width: 30rem; }
.merit :is(table, tr, th, td) { border: 0 !important; }
.merit :is(th, td) { padding: .15rem .6rem .15rem 0 !important; }
.merit th { text-align: left; font-weight: normal; }
.merit td.bar { width: 55%; }
.merit meter { width: 100%; height: 1.1rem; }
audio { width: 100%; }
"""


def about(model):
    """Tell which model this is, what it was trained on and its limits.

    Arguments
    ---------
    model : ModelAbout
        What there is to say.

    Returns
    -------
    str
        HTML.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> model = SimpleNamespace(name="<tiny>", trained_on=[], limits=["None."])
    >>> print(about(model))
    <div class="merit"><h3>This model: &lt;tiny&gt;</h3><p>Nobody wrote...
    """
    limits = "".join(f"<li>{escape(limit)}</li>" for limit in model.limits)
    nothing = ["Nobody wrote down what it was trained on."]
    trained_on = " ".join(model.trained_on or nothing)
    return (
        f'<div class="merit"><h3>This model: {escape(model.name)}</h3>'
        f"<p>{escape(trained_on)}</p>"
        f"<ul>{limits}</ul></div>"
    )


def summary(findings, scale=None):
    """Tell what the recording is and what the model heard in it.

    Arguments
    ---------
    findings : Findings
        Of the recording.
    scale : sequence of float, optional
        Lowest and highest value of an attribute.

    Returns
    -------
    str
        HTML.
    """
    analysis = findings.analysis
    parts = [f'<p class="facts">{escape(facts(findings))}</p>']
    if analysis.emotion is not None:
        parts.append(emotion(analysis.emotion, scale))
    return f'<div class="merit">{"".join(parts)}</div>'


def facts(findings):
    """Say name, length, rate and time in one line.

    Arguments
    ---------
    findings : Findings
        Of the recording.

    Returns
    -------
    str
        Plain text.
    """
    analysis = findings.analysis
    heard = f"{analysis.sample_rate_hz} Hz"
    if findings.n_channels > 1:
        heard += f", {findings.n_channels} channels averaged"
    told = (
        f"{findings.name}: {analysis.duration_s:.2f} s at {heard}; "
        f"analysed in {findings.took_s:.2f} s"
    )
    if analysis.gain < 1:
        told += f"; played at {analysis.gain:.2f} of its level, not to clip"
    return told


def emotion(found, scale=None):
    """Show the emotion of a recording.

    Arguments
    ---------
    found : Emotion or Attributes
        What the model says.
    scale : sequence of float, optional
        Lowest and highest value of an attribute.

    Returns
    -------
    str
        HTML.

    Example
    -------
    >>> html = emotion(Emotion("<b>", 0.75, {"<b>": 0.75, "sad": 0.25}))
    >>> "<b>" in html, "75 %" in html
    (False, True)
    """
    if isinstance(found, Emotion):
        rows = found.probabilities
        head = f"<strong>{escape(found.label)}</strong>"
        head += f" {100 * found.score:.0f} %"
        low, high, form = 0, 1, lambda value: f"{100 * value:.1f} %"
    else:
        rows, head = found.attributes, ""
        low, high = scale
        form = "{:.2f}".format
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="bar">'
        f'<meter min="{low}" max="{high}" value="{value:.4f}" '
        f'aria-label="{escape(name)}">{form(value)}</meter></td>'
        f"<td>{form(value)}</td></tr>"
        for name, value in rows.items()
    )
    head = f'<p class="emotion">{head}</p>' if head else ""
    return f"<h3>Emotion of the whole</h3>{head}<table>{lines}</table>"


def pictures(findings):
    """Show the pictures: the wide ones where there is room for them.

    Arguments
    ---------
    findings : Findings
        Of the recording.

    Returns
    -------
    str
        HTML that holds the pictures themselves.
    """
    parts = []
    for name, (wide, narrow) in findings.pictures.items():
        parts.append(
            f"<h3>{TITLES[name]}</h3><picture>"
            f'<source media="(max-width: 700px)" srcset="{_data(narrow)}">'
            f'<img class="{name}" alt="{escape(alt(name, findings))}" '
            f'src="{_data(wide)}"></picture>'
        )
    return f'<div class="merit">{"".join(parts)}</div>'


def alt(name, findings):
    """Say what a picture shows to who cannot see it.

    Arguments
    ---------
    name : str
        spectrograms, timeline or routing.
    findings : Findings
        Of the recording.

    Returns
    -------
    str
        Plain text.
    """
    analysis = findings.analysis
    if name == "spectrograms":
        sides = "noisy and enhanced" if findings.enhanced else "noisy"
        return f"Spectrogram of the {sides} speech"
    if name == "timeline":
        told = [
            f"{s.start_s:.1f} to {s.end_s:.1f} s: {_spoken(s.emotion)}"
            for s in analysis.timeline[:20]
        ]
        more = len(analysis.timeline) - len(told)
        return "; ".join(told) + (f"; and {more} more" if more else "")
    shares = []
    for task, experts in analysis.routing.items():
        counts = experts.long().bincount().tolist()
        told = [
            f"expert {expert} {100 * count / len(experts):.0f} %"
            for expert, count in enumerate(counts)
            if count
        ]
        shares.append(f"{task}: {', '.join(told)}")
    return "Share of the frames: " + "; ".join(shares)


def _spoken(found):
    if isinstance(found, Emotion):
        return f"{found.label} {100 * found.score:.0f} %"
    return ", ".join(f"{n} {v:.2f}" for n, v in found.attributes.items())


def _data(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()
