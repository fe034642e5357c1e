package org.maskprobe

import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.thread
import kotlin.concurrent.withLock
import kotlinx.coroutines.channels.SendChannel

/** Makes the steps of one engine in a thread of its own while there are generations, and hands their tokens on. */
internal class Stepper(private val engine: Long) {
    private val lock = ReentrantLock()
    private val changed = lock.newCondition()
    private val running = ArrayList<Running>()
    private var closed = false
    private val stepping = thread(name = "maskprobe", isDaemon = true) { run() }

    fun start(prompt: IntArray, options: Options, channel: SendChannel<Token>, ended: (Stats) -> Unit): Running =
        lock.withLock {
            check(!closed) { "this engine is closed" }
            Running(open(prompt, options), channel, ended).also {
                running.add(it)
                changed.signal()
            }
        }

    private fun open(prompt: IntArray, options: Options): Long =
        Native.openGeneration(
            engine,
            prompt,
            options.maxTokens,
            options.stop.map { it.toByteArray() }.toTypedArray(),
            options.draft,
            options.temperature,
            options.topK,
            options.topP,
            options.minP,
            options.repeatPenalty,
            options.seed,
            options.grammar?.toByteArray(),
        )

    private fun run() {
        while (true) {
            val all = lock.withLock {
                while (running.isEmpty() && !closed) {
                    changed.await()
                }
                running.toList()
            }
            if (all.isEmpty()) {
                return Native.freeEngine(engine)
            }
            val failure = failureOfStep()
            val ended = all.filter { it.handOn(failure) }
            lock.withLock { running.removeAll(ended) }
        }
    }

    private fun failureOfStep(): MaskprobeException? =
        try {
            Native.step(engine)
            null
        } catch (e: MaskprobeException) {
            e
        }

    fun close() {
        check(Thread.currentThread() !== stepping) { "an engine cannot be closed by what collects in its own thread" }
        lock.withLock {
            closed = true
            running.forEach { it.cancel() }
            changed.signal()
        }
        stepping.join()
    }
}

/** A generation that goes on, and the flow that its tokens go to. */
internal class Running(
    private var handle: Long,
    private val channel: SendChannel<Token>,
    private val ended: (Stats) -> Unit,
) {
    /** Sends what there is; true: that was all. A step that failed ends it too. */
    fun handOn(failure: MaskprobeException?): Boolean {
        try {
            while (true) {
                val token = Native.next(handle) ?: break
                channel.trySend(token) // has always room; closed where nobody collects any more
                if (token.finish != Token.GOES_ON) {
                    end(null)
                    return true
                }
            }
        } catch (e: MaskprobeException) {
            end(e)
            return true
        }
        if (failure != null) {
            end(failure)
        }
        return failure != null
    }

    private fun end(cause: MaskprobeException?) {
        val numbers = Native.stats(handle)
        ended(Stats(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]))
        synchronized(this) {
            Native.freeGeneration(handle)
            handle = 0
        }
        channel.close(cause)
    }

    /** From any thread, also after its end. */
    @Synchronized
    fun cancel() {
        if (handle != 0L) {
            Native.cancel(handle)
        }
    }
}
