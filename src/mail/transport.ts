import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import nodemailer from 'nodemailer'

export interface Letter {
  to: string
  subject: string
  text: string
}

/** Resolves when somebody else has it. @throws Error if nobody took it */
export type SendLetter = (letter: Letter) => Promise<void>

/** A mail server, or a folder for development. */
export type MailTarget = { smtpUrl: string } | { outboxFolder: string }

const patienceMs = 10_000

/** @param from the address that it comes from, by itself or as `Name <address>` */
export function createTransport(target: MailTarget, from: string): SendLetter {
  if ('smtpUrl' in target) {
    const smtp = nodemailer.createTransport(
      {
        url: target.smtpUrl,
        connectionTimeout: patienceMs,
        greetingTimeout: patienceMs,
        socketTimeout: patienceMs,
      },
      { from },
    )
    return async (letter) => void (await smtp.sendMail(letter))
  }
  const { outboxFolder } = target
  const composer = nodemailer.createTransport({ streamTransport: true, buffer: true }, { from })
  return async (letter) => {
    const { message, messageId } = await composer.sendMail(letter)
    await mkdir(outboxFolder, { recursive: true, mode: 0o700 })
    const name = `${Date.now()}-${messageId.replace(/[^\w.-]/g, '')}.eml`
    await writeFile(join(outboxFolder, name), message as Buffer, { mode: 0o600 })
  }
}
