"""What the Makefile calls. No lesson imports it, except Start here, which calls the doctor.

doctor.py             is this machine ready for the course?
export.py             the models, from the notebooks
student.py            the student edition
home.py               the project's address, from one place to all
readme_table.py       minutes and megabytes of each lesson, in the README
train_checkpoints.py  trains the shipped checkpoints and the stored ablations again
record_speech.py      records the voices again
"""
