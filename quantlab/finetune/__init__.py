"""Fine-tune in NF4, then deploy in another format: QLoRA, the merge, and what each step costs."""
