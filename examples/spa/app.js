// A page that stays logged in: copy it, and put your own things in the place of "a protected route".
import { createSession } from 'latchkey/browser'

const baseUrl = document.querySelector('meta[name=latchkey]').content
const session = createSession({ baseUrl })

const find = (selector) => document.querySelector(selector)
const say = (text) => {
  find('#notice').textContent = text
}

/** What people are told, by the code of what went wrong. The service's own words will do for the rest. */
const words = {
  invalid_credentials: 'Nobody has this username and this password.',
  invalid_current_password: 'This is not your password.',
  invalid_code: 'This code is wrong, too old, or used.',
  invalid_token: 'This link is wrong, too old, or used: ask for another one.',
  username_taken: 'Somebody has this username already.',
  offline: 'There is no connection. Nothing is lost: try again.',
  unavailable: 'This is not available right now: try again in a moment.',
  rate_limited: 'That was too often: wait a little.',
}

/** What the end of a session looks like to whoever was asking: it is said once, by onChange. */
const ends = ['logged_out', 'token_expired', 'token_revoked', 'refresh_token_invalid', 'refresh_token_reused']

/** Whatever goes wrong is said, and who is logged in stays so. Returns its code. */
async function attempt(work) {
  say('')
  try {
    await work()
  } catch (error) {
    if (!ends.includes(error.code)) say(words[error.code] ?? error.message)
    return error.code
  }
}

/** The same for what a button does, once at a time. It keeps the keyboard meanwhile. */
async function act(button, work) {
  if (button.ariaDisabled === 'true') return
  button.ariaDisabled = 'true'
  const code = await attempt(work)
  button.ariaDisabled = 'false'
  return code
}

/** Which fields are wrong, by what the service says. */
const wrong = {
  invalid_credentials: ['username', 'password'],
  username_taken: ['username'],
  weak_password: ['password'],
}

find('#entrance form').addEventListener('submit', async (event) => {
  event.preventDefault()
  const { submitter, target } = event
  const code = await act(submitter, async () => {
    const { username, password, remember } = Object.fromEntries(new FormData(target))
    if (submitter.value === 'up') await signUp({ username, password })
    await logIn({ username, password, remember: remember === 'on' })
    target.reset()
  })
  for (const name of ['username', 'password'])
    target.elements[name].ariaInvalid = `${wrong[code]?.includes(name) ?? false}`
})

const signUp = (account) => tell('/register', account)

async function logIn(credentials) {
  try {
    return await session.login(credentials)
  } catch (error) {
    if (error.code !== 'mfa_required') throw error
    const { code } = await askFor('code')
    return await session.login({ mfaToken: error.mfaToken, code })
  }
}

/** For whoever need not be logged in. */
async function tell(path, body) {
  const headers = { 'content-type': 'application/json' }
  const response = await fetch(baseUrl + path, { method: 'POST', headers, body: JSON.stringify(body) })
  if (response.ok) return
  const { code, detail } = await response.json()
  throw Object.assign(new Error(detail), { code })
}

const on = (selector, work) =>
  find(selector).addEventListener('click', ({ currentTarget }) => act(currentTarget, work))

on('#log-out', () => leave('session'))
on('#log-out-everywhere', () => leave('all'))
on('#ask', async () => {
  const { sub, exp } = await ask('/protected')
  find('#answer').textContent = `It knows you as ${sub.slice(0, 8)}…, until ${clock(exp * 1000)}.`
})

/** What takes a login that is more recent, or stronger, asks for what that takes, and goes on. */
async function proved(work) {
  try {
    return await work()
  } catch (error) {
    if (error.code !== 'reauthentication_required') throw error
  }
  const { methods } = await ask('/mfa')
  const shown = await askFor('password', ...(methods.length > 0 ? ['code'] : []))
  await session.reauthenticate(shown)
  return work()
}

/** Resolves with what was typed into these fields of the dialog. */
function askFor(...names) {
  const dialog = find('#proof')
  const form = dialog.querySelector('form')
  for (const input of form.querySelectorAll('input')) {
    input.disabled = !names.includes(input.name)
    input.closest('label').hidden = input.disabled
  }
  dialog.returnValue = ''
  dialog.showModal()
  return new Promise((resolve, reject) => {
    const answer = () => {
      const typed = Object.fromEntries(new FormData(form))
      form.reset()
      if (dialog.returnValue === 'confirm') resolve(typed)
      else reject(new Error('Nothing has changed.'))
    }
    dialog.addEventListener('close', answer, { once: true })
  })
}

/** A form whose button does something, once at a time. */
const onSubmit = (selector, work) =>
  find(selector).addEventListener('submit', async (event) => {
    event.preventDefault()
    const { submitter, target } = event
    await act(submitter, () => work(Object.fromEntries(new FormData(target)), target))
  })

onSubmit('#address-form', async (body, form) => {
  await proved(() => ask('/me/email', write('PUT', body)))
  form.reset()
  say('There is a mail at that address: follow its link.')
})

on('#set-up', async () => {
  const { secret, qr_svg } = await proved(() => ask('/mfa/totp', { method: 'POST' }))
  find('#secret').textContent = secret
  find('#qr').src = `data:image/svg+xml,${encodeURIComponent(qr_svg)}`
  find('#enrolment').hidden = false
  find('#enrolment input').focus()
})

onSubmit('#enrolment', async (body, form) => {
  const { recovery_codes } = await proved(() => ask('/mfa/totp/verify', write('POST', body)))
  form.reset()
  await showHome()
  const items = recovery_codes.map((code) =>
    Object.assign(document.createElement('li'), { textContent: code }),
  )
  find('#recovery ul').replaceChildren(...items)
  find('#recovery').hidden = false
  find('#factor-title').focus()
})

on('#remove-app', async () => {
  await proved(() => ask('/mfa/totp', { method: 'DELETE' }))
  await showHome()
  find('#factor-title').focus()
})

on('#forgot', async () => {
  const { username } = find('#entrance form').elements
  if (!username.reportValidity()) return
  await tell('/password/forgot', { username: username.value })
  say('If there is such an account, and its address is verified, there is a mail for you.')
})

onSubmit('#renewal form', async ({ password }, form) => {
  const token = linked('reset')
  await tell('/password/reset', { token, new_password: password })
  form.reset()
  location.hash = ''
  await show(session.user)
  say('That is your password now: sign in.')
})

async function leave(scope) {
  try {
    await session.logout({ scope })
  } catch (cause) {
    throw new Error('You are logged out here. Elsewhere it may go on: the service could not be told.', {
      cause,
    })
  }
}

// Nobody knows yet who is logged in: to ask for anything finds out.
on('#try-again', async () => {
  try {
    await ask('/me')
  } catch (error) {
    if (error.code !== 'logged_out') throw error
    await show(undefined)
  }
})

const write = (method, body) => ({
  method,
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify(body),
})

async function ask(path, init) {
  const response = await session.fetch(baseUrl + path, init)
  const text = await response.text()
  const body = text === '' ? undefined : JSON.parse(text)
  if (!response.ok) throw Object.assign(new Error(body.detail), { code: body.code })
  return body
}

const clock = (moment) => new Date(moment).toLocaleTimeString()
const calendar = (moment) =>
  new Date(moment).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' })

/** Whose things are on the page. */
let shown

async function showHome() {
  const asker = shown
  const [account, { sessions }, factor] = await Promise.all([ask('/me'), ask('/sessions'), ask('/mfa')])
  if (shown !== asker) return
  find('#name').textContent = account.username
  find('#address').textContent = account.email
    ? `${account.email}, ${account.email_verified ? 'verified' : 'not verified yet'}`
    : 'None: whoever loses their password here has lost their account.'
  showFactor(factor)
  const current = sessions.find((one) => one.current)
  for (const [selector, moment] of [
    ['#idle-ends', current.idle_expires_at],
    ['#session-ends', current.expires_at],
  ]) {
    find(selector).dateTime = moment
    find(selector).textContent = calendar(moment)
  }
  find('#sessions').replaceChildren(...sessions.map(showSession))
}

function showFactor({ methods, recovery_codes_left }) {
  const hasApp = methods.includes('totp')
  find('#factor').textContent = hasApp
    ? `Your app, and ${recovery_codes_left} recovery codes.`
    : 'None: your password alone lets anybody in.'
  find('#set-up').hidden = hasApp
  find('#remove-app').hidden = !hasApp
  for (const selector of ['#enrolment', '#recovery']) find(selector).hidden = true
}

function showSession({ id, device, address, last_used_at, current }) {
  const item = find('template').content.cloneNode(true)
  item.querySelector('.device').textContent = device
  item.querySelector('.address').textContent = address
  item.querySelector('.badge').hidden = !current
  const used = item.querySelector('.used')
  used.dateTime = last_used_at
  used.textContent = calendar(last_used_at)
  const button = item.querySelector('button')
  button.setAttribute('aria-label', `End the session of ${device}, last used ${used.textContent}`)
  button.addEventListener('click', () =>
    act(button, async () => {
      if (current) return leave('session')
      await proved(() => ask(`/sessions/${id}`, { method: 'DELETE' }))
      await showHome()
      find('#sessions-title').focus()
      say(`The session of ${device} has ended.`)
    }),
  )
  return item
}

/** What a link of a mail has brought, behind this name. */
const linked = (name) => new URLSearchParams(location.hash.slice(1)).get(name)

/** Which of these there is, and where the keyboard goes. Nothing is left of whoever was here before. */
async function show(user) {
  shown = user?.id
  for (const section of document.querySelectorAll('section')) section.hidden = true
  for (const selector of [
    ...[
      '#name',
      '#answer',
      '#sessions',
      '#idle-ends',
      '#session-ends',
      '#address',
      '#factor',
      '#secret',
      '#recovery ul',
    ],
  ])
    find(selector).replaceChildren()
  find('#qr').removeAttribute('src')
  find('#log-out').hidden = !user
  if (user) {
    showTokenEnd()
    await attempt(showHome)
    // Or somebody else has come meanwhile.
    if (shown !== user.id) return
  }
  reveal(linked('reset') ? '#renewal' : user ? '#home' : '#entrance')
}

function reveal(section) {
  find(section).hidden = false
  find('main').ariaBusy = 'false'
  find(`${section} h2`).focus()
}

function showTokenEnd() {
  const left = session.expiresAt - Date.now()
  find('#token-ends').textContent =
    left > 0
      ? `in ${Math.ceil(left / 1000)} s; the next request renews it`
      : 'has ended; the next request renews it'
}
setInterval(showTokenEnd, 1000)

const farewells = {
  logged_out: 'You are logged out, in every tab.',
  ended: 'Your session has ended: sign in again.',
}

session.onChange(({ user, reason }) => {
  // With other roles it is still the same person, who may be typing.
  if (user && user.id === shown) return
  void show(user)
  if (!user) say(farewells[reason])
})

async function followLink() {
  const token = linked('verify')
  if (!token) return
  location.hash = ''
  if ((await attempt(() => tell('/email/verify', { token }))) === undefined) say('Your address is verified.')
  if (shown) await showHome()
}

// A link that is opened where the page is already.
addEventListener('hashchange', () => location.hash && location.reload())

try {
  const user = await session.ready
  if (!user || linked('reset')) await show(user)
  await followLink()
} catch (error) {
  reveal('#waiting')
  say(words[error.code] ?? error.message)
}
