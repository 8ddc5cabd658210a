"""Who looks: nobody is asked, Streamlit's own login (OIDC), or a proxy that names the user in a header."""

from __future__ import annotations

import streamlit as st

from dashboards import read


def ask() -> None:
    """Stop the page, with what to do, where the settings ask for a user and there is none."""
    way = read.settings().dashboard_auth
    if not way or user():
        return
    st.title("Warpline")
    if way == "oidc":
        st.write("Sign in to see requests, GPUs and recordings.")
        st.button("Sign in", on_click=st.login, type="primary", icon=":material/login:")
    else:
        header = read.settings().dashboard_user_header
        st.error(
            f"No user came with this page: the proxy in front of the dashboard sends none in `{header}`. "
            "Open the dashboard through the proxy, or set `dashboard_user_header` to the header that it sends.",
            icon=":material/lock:",
        )
    st.stop()


def leave() -> None:
    """Say at a page's end who is signed in, and offer to sign out, where Streamlit's own login is on."""
    if read.settings().dashboard_auth == "oidc":
        with st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
            st.caption(f"Signed in as {user()}", width="content")
            st.button("Sign out", on_click=st.logout, type="tertiary", icon=":material/logout:")


def user() -> str:
    """Return the user's name, empty where nobody is asked or nobody is known."""
    if not read.settings().dashboard_auth:
        return ""
    known = st.user.to_dict()
    return str(known.get("email") or known.get("sub") or known.get("name") or "")
