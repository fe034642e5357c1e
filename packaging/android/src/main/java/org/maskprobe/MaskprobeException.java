package org.maskprobe;

import java.nio.charset.StandardCharsets;

/** What the library says went wrong, in one line that names what to do. */
public final class MaskprobeException extends RuntimeException {
    /** mp_status of maskprobe.h. */
    public final int status;

    MaskprobeException(int status, byte[] message) {
        super(new String(message, StandardCharsets.UTF_8));
        this.status = status;
    }
}
