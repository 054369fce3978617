/* The FileDescriptorSet that reflection serves; CKPT_DESCRIPTOR_FILE is given by the build. */
    .section .rodata
    .global ckpt_descriptor_set
    .global ckpt_descriptor_set_end
    .balign 8
ckpt_descriptor_set:
    .incbin CKPT_DESCRIPTOR_FILE
ckpt_descriptor_set_end:
    .byte 0
    .section .note.GNU-stack,"",%progbits
