"""What is read out of a review."""

from typing import Literal

from pydantic import BaseModel, Field


class Facts(BaseModel):
    """What a customer says of a product."""

    request: Literal["refund", "exchange", "question", "none"] = Field(description="what the customer asks for")
    product: str | None = Field(description="product that the text is about", max_length=40)
