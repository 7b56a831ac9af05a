"""The page itself: what is on it, and what happens on a click."""

import contextlib
from typing import NamedTuple

from merit_modules.commands.demo import fragments
from merit_modules.commands.demo.example import example_recording
from merit_modules.commands.demo.listening import listen
from merit_modules.data.escaping import html as escape
from merit_modules.errors import InputError
from merit_modules.inference.emotion import ClassReader
from merit_modules.inference.interface import SEGMENT_S

TITLE = "Sparse MERIT"
#: Recordings that are worked on at the same time.
N_AT_ONCE = 4
#: Recordings that wait, at the most.
MAX_WAITING = 32
#: Seconds after which the file of a page that is still open is deleted.
MAX_AGE_S = 3600
_FONTS = ["system-ui", "sans-serif"]


class Limits(NamedTuple):
    """What visitors may ask for.

    Arguments
    ---------
    max_upload_mb : float
        Largest upload.
    max_minutes : float
        Longest recording.
    max_total_mb : float
        All files of all visitors.
    """

    max_upload_mb: float = 100.0
    max_minutes: float = 30.0
    max_total_mb: float = 2000.0


def build_page(model, about, files, limits):
    """Build the page for what a model can do.

    Arguments
    ---------
    model : SparseMERIT
        The model.
    about : ModelAbout
        What the page says of it.
    files : SessionFiles
        Where the visitors' files are.
    limits : Limits
        What they may ask for.

    Returns
    -------
    gradio.Blocks
        The page.
    """
    import gradio as gr

    with gr.Blocks(
        title=TITLE,
        analytics_enabled=False,
        delete_cache=(60, MAX_AGE_S),
    ) as page:
        gr.Markdown(f"# {TITLE}\n{_introduction(model, limits)}")
        recording = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Recording",
            editable=False,
            buttons=[],
            elem_id="recording",
        )
        _refuse_addresses(recording)
        example = gr.Button(
            "Take an example: a synthetic voice in noise",
            size="sm",
            elem_id="example",
            visible=example_recording() is not None,
        )
        segment_s = gr.Slider(
            0.5,
            10.0,
            SEGMENT_S,
            step=0.5,
            label="Seconds per segment of the timeline",
            elem_id="segment_s",
            visible="ser" in model.engine.tasks,
        )
        button = gr.Button("Analyse", variant="primary", elem_id="analyse")
        status = gr.HTML(elem_id="summary")
        with gr.Column(visible=False) as results:
            shown = _results(gr, "se" in model.engine.tasks)
        _connect(
            gr,
            page,
            _Handlers(model, files, limits),
            (recording, segment_s),
            (button, example),
            [results, status, *shown],
        )
        gr.HTML(fragments.about(about), elem_id="about")
    page.queue(default_concurrency_limit=N_AT_ONCE, max_size=MAX_WAITING)
    return page


def theme():
    """Give the page's looks: fonts of the visitor's own system."""
    import gradio as gr

    return gr.themes.Base(font=_FONTS, font_mono=["monospace"])


def _introduction(model, limits):
    can = {"se": "enhances it", "ser": "recognises its emotion"}
    does = " and ".join(can[task] for task in model.engine.tasks)
    return (
        f"Record or upload speech: the model {does}. At most "
        f"{limits.max_minutes:g} minutes and {limits.max_upload_mb:g} MB. "
        "Recording and results stay on the machine that runs this page, and "
        "are deleted when you close it."
    )


def _results(gr, enhances):
    """Place players, pictures and downloads."""
    plain = gr.WaveformOptions(show_recording_waveform=False)
    options = {"interactive": False, "buttons": [], "waveform_options": plain}
    with gr.Row():
        noisy = gr.Audio(label="Noisy", elem_id="noisy", **options)
        enhanced = gr.Audio(
            label="Enhanced", elem_id="enhanced", visible=enhances, **options
        )
    pictures = gr.HTML(elem_id="pictures")
    with gr.Row():
        wav = gr.DownloadButton(
            "Download enhanced speech (WAV)", visible=enhances
        )
        table = gr.DownloadButton("Download analysis (JSON)")
    return noisy, enhanced, pictures, wav, table


def _connect(gr, page, handlers, inputs, buttons, outputs):
    recording, status = inputs[0], outputs[1]
    button, example = buttons

    def claim(upload, request: gr.Request):
        handlers.claim(upload, request.session_hash)

    def analyse(
        upload,
        segment_s,
        request: gr.Request,
        progress=gr.Progress(),  # noqa: B008
    ):
        with _telling(gr):
            found = handlers.analyse(
                upload, segment_s, request.session_hash, progress
            )
        return gr.Column(visible=True), *found

    def take_example():
        with _telling(gr):
            return handlers.take_example()

    def end(request: gr.Request):
        handlers.files.end(request.session_hash)

    private = {"api_visibility": "private", "show_progress": "hidden"}
    recording.change(claim, recording, queue=False, **private)
    example.click(take_example, None, recording, **private)
    button.click(
        analyse,
        list(inputs),
        outputs,
        api_name="analyse",
        show_progress_on=status,
    )
    page.unload(end)


@contextlib.contextmanager
def _telling(gr):
    """Show what is wrong on the page."""
    try:
        yield
    except InputError as error:
        # A message may be HTML, and a file's name is the visitor's own.
        raise gr.Error(
            escape(str(error)), duration=None, print_exception=False
        ) from None


class _Handlers:
    """What happens on the page, in terms of files and models alone."""

    def __init__(self, model, files, limits):
        self.model = model
        self.files = files
        self.limits = limits
        reader = model.reader
        self.scale = None
        if not isinstance(reader, ClassReader):
            self.scale = reader.low, reader.high

    def claim(self, upload, session):
        """Note which upload a visitor's page holds."""
        with contextlib.suppress(InputError):  # said when it is analysed
            self.files.claim(session, upload)

    def take_example(self):
        """Give a visitor the example, as an upload of the visitor's own."""
        return self.files.store("example.wav", example_recording())

    def analyse(self, upload, segment_s, session, progress):
        """Analyse an upload; give the values of the page's elements."""
        if upload is None:
            raise InputError("Record or upload some speech first.")

        def tell(share):
            self.files.check_wanted(session)
            progress(share, desc="Listening" if share < 1 else "Drawing")

        with self.files.work(session, upload) as (path, folder):
            found = listen(
                self.model,
                path,
                folder,
                max_s=60 * self.limits.max_minutes,
                segment_s=segment_s,
                progress=tell,
            )
        enhanced = None if found.enhanced is None else str(found.enhanced)
        return (
            fragments.summary(found, self.scale),
            str(found.noisy),
            enhanced,
            fragments.pictures(found),
            enhanced,
            str(found.table),
        )


def _refuse_addresses(audio):
    """Let an element take uploads alone: it would fetch addresses, too."""
    import gradio as gr

    take = audio.async_move_resource_to_block_cache

    async def take_upload(path):
        if path is not None and "://" in str(path):
            raise gr.Error(
                "expected an upload, got an address", print_exception=False
            )
        return await take(path)

    audio.async_move_resource_to_block_cache = take_upload
