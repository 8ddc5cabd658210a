"""A KV connector for vLLM's scheduler that moves nothing: the decode engine finds a prompt's KV cache loaded, less a token.

It stands in for NIXL, whose library needs RDMA: the scheduler's own path for remote prefills runs, the transfer does not.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA


class Connector(KVConnectorBase_V1, SupportsHMA):
    """The scheduler's side alone."""

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        far = (request.kv_transfer_params or {}).get("do_remote_prefill") and not request.num_output_tokens
        return (max(request.num_prompt_tokens - 1 - num_computed_tokens, 0) if far else 0), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None: ...

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return KVConnectorMetadata()

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        far = (request.kv_transfer_params or {}).get("do_remote_decode")
        return False, {"remote_request_id": request.request_id, "do_remote_prefill": True} if far else None

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished(request, block_ids)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None: ...

    def wait_for_layer_load(self, layer_name: str) -> None: ...

    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_for_save(self) -> None: ...


class Later(Connector):
    """Lets requests wait for what they fetch, and keeps what is fetched from here, until the workers' word."""

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        far = (request.kv_transfer_params or {}).pop("do_remote_prefill", False)  # Once: what failed is computed here.
        return (request.num_prompt_tokens - num_computed_tokens, True) if far else (0, False)

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        _, offered = super().request_finished(request, block_ids)
        return offered is not None, offered
