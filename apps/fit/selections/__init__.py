"""Which pixels a picture's fit is taught with; one module for each, ``@register("selection", "Name")``."""
