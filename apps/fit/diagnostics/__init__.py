"""What can be asked of a field under way: one class for each, ``@register("diagnostic", "Name")``."""
