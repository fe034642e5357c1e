package org.maskprobe;

import java.nio.charset.StandardCharsets;

/** One emitted token. The last one of a generation says why it ends. */
public final class Token {
    public static final int GOES_ON = 0;
    /** An end token, or a stop string. */
    public static final int STOP = 1;
    /** As many tokens as were wanted. */
    public static final int LENGTH = 2;
    /** The context is full. */
    public static final int CONTEXT = 3;
    /** The grammar allows no further token. */
    public static final int CONSTRAINT = 4;
    public static final int CANCELLED = 5;

    /** What is certain now: whole characters, nothing that may become a stop string. May be empty. */
    public final String text;
    /** -1: the generation ends without another token. */
    public final int id;
    /** In the model's own distribution; and the gap of its two best tokens there. */
    public final float logProbability, margin;
    /** What had guessed it; "model": nothing. */
    public final String source;
    /** {@link #GOES_ON}, or why this is the last one. */
    public final int finish;

    Token(byte[] text, int id, float logProbability, float margin, byte[] source, int finish) {
        this.text = new String(text, StandardCharsets.UTF_8);
        this.id = id;
        this.logProbability = logProbability;
        this.margin = margin;
        this.source = new String(source, StandardCharsets.UTF_8);
        this.finish = finish;
    }
}
