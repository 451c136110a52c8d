"""A web page that demonstrates a trained model. Only `page.py` and `guard.py` need Gradio."""
