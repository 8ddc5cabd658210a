"""What `streamlit run` serves: the pages, and beside them the signed routes that the canvas fetches from."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboards import routes

app = st.App(Path(__file__).with_name("main.py"), routes=routes.routes())
