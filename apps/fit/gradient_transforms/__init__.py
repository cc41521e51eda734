"""What is done to residuals before they are differentiated; ``@register("gradient_transform", "Name")``."""
