package org.maskprobe

import java.io.File

/** A message of a conversation; roles are "system", "user" and "assistant". */
data class Message(val role: String, val content: String)

/**
 * A GGUF model. Opening it takes seconds: not on the main thread.
 *
 * @param gpuLayers layers on a GPU, -1 for all. Without a GPU backend in the build it changes nothing.
 * @throws MaskprobeException where the file is missing, no sound model, of a kind that is not run, or does not fit
 */
class Model(file: File, gpuLayers: Int = -1) : AutoCloseable {
    private var open = Native.openModel(file.path.toByteArray(), gpuLayers)

    /** For instance "llama 1B Q4_0". */
    val description: String

    /** The instruction set of the kernels, or "llama.cpp"; and the share of the weights they compute, or why. */
    val kernels: String
    val kernelsReason: String

    /** What is limited with this model, or "". */
    val note: String

    init {
        val lines = Native.describe(open).map { String(it) }
        description = lines[0]
        kernels = lines[1]
        kernelsReason = lines[2]
        note = lines[3]
    }

    internal val handle: Long
        get() = open.also { check(it != 0L) { "this model is closed" } }

    /**
     * Text to tokens.
     *
     * @param addSpecial puts the token for the beginning where the model wants it
     * @param parseSpecial reads the text of special tokens as these
     */
    @Synchronized
    fun tokenize(text: String, addSpecial: Boolean = true, parseSpecial: Boolean = false): IntArray =
        Native.tokenize(handle, text.toByteArray(), addSpecial, parseSpecial)

    /** The prompt for the assistant's next message, in the format of llama.cpp's list that fits the model's template. */
    @Synchronized
    fun chatPrompt(messages: List<Message>): IntArray {
        val roles = messages.map { it.role.toByteArray() }.toTypedArray()
        val contents = messages.map { it.content.toByteArray() }.toTypedArray()
        return Native.tokenize(handle, Native.formatChat(handle, roles, contents), true, true)
    }

    /** Engines on it go on. */
    @Synchronized
    override fun close() {
        Native.freeModel(open)
        open = 0
    }
}
