"""A page in the browser that shows what a trained model does. `page.py` needs Gradio, the others not."""
