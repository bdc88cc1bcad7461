"""The dashboard: Streamlit only; the work is done in advisor and trainer."""
