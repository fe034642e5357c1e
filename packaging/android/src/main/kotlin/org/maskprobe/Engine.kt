package org.maskprobe

import java.io.File
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.flow.filter
import kotlinx.coroutines.flow.map

/** How tokens are drawn and when the text ends. The defaults are llama.cpp's. */
data class Options(
    /** -1: no limit. */
    val maxTokens: Long = -1,
    /** The text ends before any of these. */
    val stop: List<String> = emptyList(),
    /** 0: always the most likely token. */
    val temperature: Float = 0.8f,
    val topK: Int = 40,
    val topP: Float = 0.95f,
    val minP: Float = 0.05f,
    val repeatPenalty: Float = 1f,
    /** -1: another one each time. */
    val seed: Int = -1,
    /** GBNF with a rule named root. */
    val grammar: String? = null,
    /** False: one token per pass. The text is the same. */
    val draft: Boolean = true,
)

/** Counts of a generation; the first token comes with the prompt, the others with the passes. */
data class Stats(val promptTokens: Long, val tokens: Long, val drafted: Long, val accepted: Long, val passes: Long)

/**
 * Generates with a model: several tokens per pass, several texts in one pass.
 *
 * @param contextSize tokens of each text, 0 for the model's, reduced to what memory holds
 * @param parallel texts at the same time, each with a cache of its own; more of them take turns
 * @param threads 0: one for each core
 * @param state a file that keeps what is learned of the model, for instance in Context.filesDir; null: none is kept
 * @throws MaskprobeException where memory is short, or an argument out of range
 */
class Engine(
    private val model: Model,
    contextSize: Int = 0,
    parallel: Int = 1,
    threads: Int = 0,
    state: File? = null,
) : AutoCloseable {
    private val stepper: Stepper

    /** Tokens that fit into each text. */
    val contextSize: Int

    init {
        val context = synchronized(model) { Native.openContext(model.handle, contextSize, parallel, threads) }
        try {
            this.contextSize = Native.contextSize(context)
            stepper = Stepper(Native.openEngine(context, state?.path?.toByteArray()))
        } finally {
            Native.freeContext(context) // the engine keeps it
        }
    }

    /**
     * The tokens that follow the prompt. Each collection is a generation of its own; cancelling it stops the pass that is
     * under way. What the library refuses or fails at is a [MaskprobeException] of the collection.
     *
     * @param ended gets the counts at the end, in the engine's thread
     */
    fun tokens(prompt: IntArray, options: Options = Options(), ended: (Stats) -> Unit = {}): Flow<Token> =
        callbackFlow {
            val generation = stepper.start(prompt, options, channel, ended)
            awaitClose { generation.cancel() }
        }.buffer(Channel.UNLIMITED)

    /** The text that follows the prompt, piece by piece. */
    fun text(prompt: IntArray, options: Options = Options()): Flow<String> =
        tokens(prompt, options).map { it.text }.filter { it.isNotEmpty() }

    fun text(prompt: String, options: Options = Options()): Flow<String> = text(model.tokenize(prompt), options)

    /** The assistant's next message. What a conversation has in common with the one before is not evaluated again. */
    fun chat(messages: List<Message>, options: Options = Options()): Flow<String> = text(model.chatPrompt(messages), options)

    /** Ends all generations as cancelled, writes what was learned, and frees the cache. It waits for the pass under way. */
    override fun close() = stepper.close()
}
