"""SePPO for ComfyUI: entry point of the node pack. Nothing is imported until the host asks for it."""

WEB_DIRECTORY = "./web"
"""What the host serves to its page; every .js file in it is loaded there."""


async def comfy_entrypoint():
    """Return the pack's extension; a failure is logged with its traceback, the host shows one line."""
    try:
        from comfy_api.latest import ComfyExtension

        from .nodes import NODES, gallery_routes, routes

        routes.register()
        gallery_routes.register()
    except Exception:
        import logging

        logging.exception("SePPO for ComfyUI could not be loaded")
        raise

    class SePPOExtension(ComfyExtension):
        async def get_node_list(self):
            return list(NODES)

    return SePPOExtension()
