"""Every page's frame: navigation, login where asked for, and what is said when something cannot be read."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboards import login, parts, theme
from warpline.errors import WarplineError

PAGES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "": (
        ("overview", "Overview", ":material/monitoring:"),
        ("requests", "Requests", ":material/list_alt:"),
        ("request", "Request", ":material/view_timeline:"),
        ("compare", "Compare", ":material/compare_arrows:"),
        ("gpus", "GPUs", ":material/memory:"),
        ("alerts", "Alerts", ":material/notifications:"),
        ("recordings", "Recordings", ":material/video_library:"),
    ),
    "More": (
        ("incidents", "Incidents", ":material/work_history:"),
        ("cold_starts", "Cold starts", ":material/ac_unit:"),
        ("health", "Pipeline health", ":material/health_and_safety:"),
    ),
}
"""File in `screens/`, which is the page's address too → its title and icon. The first is the front page."""


def main() -> None:
    """Show the page that the address names."""
    st.set_page_config("Warpline", str(Path(__file__).with_name("icon.png")), layout="wide")
    st.html(f"<style>{theme.CSS}</style>")
    login.ask()
    chosen = st.navigation(
        {
            section: [
                st.Page(f"screens/{file}.py", title=title, icon=icon, url_path=file, default=file == "overview")
                for file, title, icon in pages
            ]
            for section, pages in PAGES.items()
        },
        position="top",
    )
    try:
        chosen.run()
    except WarplineError as error:
        parts.failed(error)
    login.leave()


main()
