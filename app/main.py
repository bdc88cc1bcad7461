"""Router of the dashboard: page config, logo, navigation, footer."""

from pathlib import Path

import streamlit as st

from app import state
from app.components import footer
from app.own_host import is_own
from app.texts import t

HERE = Path(__file__).resolve().parent

# A picture of our own: Streamlit's front end fetches a material icon for the tab from the internet.
st.set_page_config(
    page_title="Training Advisor", page_icon=HERE / "static" / "icon.svg", layout="wide"
)
lang, mode = state.language(), state.mode()
headers = st.context.headers
asked_with = [(name, value) for name in headers for value in headers.get_all(name)]
if asked_with and not is_own((n.encode(), v.encode()) for n, v in asked_with):
    # of `streamlit run`, which has no OwnHostOnly; without headers it is a test
    st.error(t("page.foreign", lang))
    st.stop()
st.logo(HERE / "static" / f"logo-{mode}.svg", size="large")
page = st.navigation(
    [
        st.Page(
            HERE / "views" / "plan.py",
            title=t("page.plan", lang),
            icon=":material/balance:",
            help=t("page.plan.help", lang),
            url_path="plan",
            default=True,
        ),
        st.Page(
            HERE / "views" / "arguments.py",
            title=t("page.arguments", lang),
            icon=":material/tune:",
            help=t("page.arguments.help", lang),
            url_path="arguments",
        ),
        st.Page(
            HERE / "views" / "run.py",
            title=t("page.run", lang),
            icon=":material/show_chart:",
            help=t("page.run.help", lang),
            url_path="run",
        ),
        st.Page(
            HERE / "views" / "runs.py",
            title=t("page.runs", lang),
            icon=":material/stacks:",
            help=t("page.runs.help", lang),
            url_path="runs",
        ),
        st.Page(
            HERE / "views" / "machines.py",
            title=t("page.machines", lang),
            icon=":material/memory:",
            help=t("page.machines.help", lang),
            url_path="machines",
        ),
    ],
    position="top",
)
if page.url_path:  # not Plan, whose dialogs stay open when it is drawn again
    state.close_dialog()
page.run()
footer()


@st.fragment(run_every="2s")
def follow_mode() -> None:
    """Draw charts and logo again when the reader switches between light and dark."""
    if state.mode() != mode:
        st.rerun()


follow_mode()
